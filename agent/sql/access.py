"""The script that creates the service user, its role and network policy, with the least privileges."""

from __future__ import annotations

from agent.sql.names import literal
from agent.sql.plan import Plan

_KEY_SLOT = "<one line: badge-agent key public>"
_NETWORK_SLOT = "<203.0.113.0/24>"

# A user with one of these cannot be of TYPE = SERVICE.
_OF_A_PERSON = "PASSWORD, MUST_CHANGE_PASSWORD, FIRST_NAME, MIDDLE_NAME, LAST_NAME, MINS_TO_BYPASS_MFA"


def access(plan: Plan) -> str:
    """Role, user, key, network policy, authentication policy, grants."""
    return "\n\n".join(
        [_role_and_user(plan), _key(plan), _network(plan), _authentication(plan), _grants(plan)]
    )


def _role_and_user(plan: Plan) -> str:
    service = f"TYPE = SERVICE DEFAULT_ROLE = {plan.role} DEFAULT_SECONDARY_ROLES = ()"
    return f"""\
-- USERADMIN may create users and roles, and alter those that it owns. Where the user or the role was
-- made by another role, such as ACCOUNTADMIN, use that one here: SHOW USERS and SHOW ROLES have it as
-- owner.
USE ROLE USERADMIN;

CREATE ROLE IF NOT EXISTS {plan.role}
  COMMENT = 'badge-agent: adds badge swipes, reads nothing';

-- A service user has no password and no browser login: the key pair is the only way in.
-- It works without secondary roles, so that it can do what this role can, and no more.
CREATE USER IF NOT EXISTS {plan.user}
  TYPE = SERVICE
  DEFAULT_ROLE = {plan.role}
  DEFAULT_SECONDARY_ROLES = ()
  COMMENT = 'badge-agent: the door readers';

-- For a user that was there before. Snowflake refuses TYPE = SERVICE for a user with a password or a
-- person's name: if so, these are removed, and a login with that password is then impossible.
EXECUTE IMMEDIATE $$
BEGIN
  ALTER USER {plan.user} SET {service};
  RETURN 'The user is a service user.';
EXCEPTION
  WHEN OTHER THEN
    ALTER USER {plan.user} UNSET
      {_OF_A_PERSON};
    ALTER USER {plan.user} SET {service};
    RETURN 'The user is a service user now; its password and names were removed.';
END;
$$;

-- The second grant lets SYSADMIN manage what the role may own, as Snowflake recommends for every role.
GRANT ROLE {plan.role} TO USER {plan.user};
GRANT ROLE {plan.role} TO ROLE {plan.owner};"""


def _key(plan: Plan) -> str:
    if plan.public_key_line is None:
        return f"""\
-- The public half of the agent's key, which was not found here. Fill it in and uncomment the line:
-- ALTER USER {plan.user} SET RSA_PUBLIC_KEY = {literal(_KEY_SLOT)};"""
    return f"""\
-- The public half of the agent's key; the private half never leaves the door.
-- DESC USER must then show, as {plan.key_slot}_FP: {plan.fingerprint}
-- To change keys without a pause: badge-agent key rotate, which uses the user's other slot.
ALTER USER {plan.user} SET {plan.key_slot} = {literal(plan.public_key_line)};"""


def _network(plan: Plan) -> str:
    networks = ", ".join(map(literal, plan.allowed_networks or (_NETWORK_SLOT,)))
    statements = f"""\
USE ROLE SECURITYADMIN;
CREATE NETWORK POLICY IF NOT EXISTS {plan.network_policy}
  ALLOWED_IP_LIST = ({networks});
ALTER NETWORK POLICY {plan.network_policy} SET
  ALLOWED_IP_LIST = ({networks});
ALTER USER {plan.user} SET NETWORK_POLICY = {plan.network_policy};"""
    why = f"""\
-- From where the key may be used: the public IPv4 addresses of the doors' networks.
-- A stolen key is then of no use elsewhere. For this user it replaces the account's own policy.
-- Needs CREATE NETWORK POLICY on the account, which SECURITYADMIN has. The policy is altered and not
-- replaced, because Snowflake does not replace one that is assigned.
-- ALLOWED_IP_LIST takes IPv4 only. If a door reaches Snowflake by IPv6, add a network rule:
-- CREATE OR ALTER NETWORK RULE {plan.network_rule}
--   TYPE = IPV6 VALUE_LIST = ('<2001:db8::/64>') MODE = INGRESS;
-- ALTER NETWORK POLICY {plan.network_policy} SET
--   ALLOWED_NETWORK_RULE_LIST = ({literal(plan.network_rule)});"""
    if plan.allowed_networks:
        return f"{why}\n{statements}"
    slots = "\n".join(f"-- {line}" for line in statements.splitlines())
    recommended = "-- Recommended: --allow-ip fills it in, or fill it in here and uncomment the lines."
    return f"{why}\n{recommended}\n{slots}"


def _authentication(plan: Plan) -> str:
    return f"""\
-- Optional: the user may sign in with a key pair only. That the exchange of the key-pair token for a
-- scoped token still works under such a policy is not documented: after it run badge-agent check on a
-- door. The way back: ALTER USER {plan.user} UNSET AUTHENTICATION POLICY;
-- Needs CREATE AUTHENTICATION POLICY on the schema, and APPLY AUTHENTICATION POLICY for the user.
-- USE ROLE {plan.owner};
-- CREATE AUTHENTICATION POLICY IF NOT EXISTS {plan.authentication_policy}
--   AUTHENTICATION_METHODS = ('KEYPAIR');
-- USE ROLE SECURITYADMIN;
-- ALTER USER {plan.user} SET AUTHENTICATION POLICY {plan.authentication_policy};"""


def _grants(plan: Plan) -> str:
    inserts = "\n".join(
        f"GRANT INSERT ON TABLE {table} TO ROLE {plan.role};" for table in (plan.table, plan.events_table)
    )
    operate = "\n".join(f"GRANT OPERATE ON PIPE {pipe} TO ROLE {plan.role};" for pipe in plan.every_pipe)
    return f"""\
-- All that streaming needs: see database and schema, add rows, use the pipe. No SELECT: what a
-- door has sent it cannot read again, nor what another one has. Needs OWNERSHIP of each object.
USE ROLE {plan.owner};
GRANT USAGE ON DATABASE {plan.database} TO ROLE {plan.role};
GRANT USAGE ON SCHEMA {plan.schema} TO ROLE {plan.role};
{inserts}
{operate}"""
