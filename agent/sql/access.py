"""The script that creates the service user, its role and network policy, with the least privileges."""

from __future__ import annotations

from agent.sql.names import commented, literal
from agent.sql.plan import USER_OWNER, Plan

_KEY_SLOT = "<one line: badge-agent key public>"
_IPV4_SLOT, _IPV6_SLOT = "<203.0.113.0/24>", "<2001:db8::/64>"

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
{created_role(plan)}

-- A service user has no password and no browser login: it signs in with the key pair only. Without
-- secondary roles it has the privileges of this role and no more.
-- Needs CREATE USER on the account, which USERADMIN has.
CREATE USER IF NOT EXISTS {plan.user}
  TYPE = SERVICE
  DEFAULT_ROLE = {plan.role}
  DEFAULT_SECONDARY_ROLES = ()
  COMMENT = 'badge-agent: the door readers';

-- Needs OWNERSHIP of the user. ACCOUNTADMIN has it for a user that USERADMIN made, as above, and for one
-- that it made itself, as the demo does. If another role is the owner in SHOW USERS, use that one, also
-- where this script sets the key and the policy of the user.
USE ROLE {USER_OWNER};

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

-- The second grant lets {plan.owner} manage what the role may own, as Snowflake recommends for every role.
GRANT ROLE {plan.role} TO USER {plan.user};
GRANT ROLE {plan.role} TO ROLE {plan.owner};"""


def created_role(plan: Plan) -> str:
    """The statement that creates the role of the service user if it does not exist."""
    return f"""\
-- Needs CREATE ROLE on the account, which USERADMIN has.
USE ROLE USERADMIN;
CREATE ROLE IF NOT EXISTS {plan.role}
  COMMENT = 'badge-agent: adds badge swipes, reads nothing';"""


def _key(plan: Plan) -> str:
    if plan.public_key_line is None:
        return f"""\
-- The public half of the agent's key, which was not found here. Fill it in and uncomment the line:
-- ALTER USER {plan.user} SET RSA_PUBLIC_KEY = {literal(_KEY_SLOT)};"""
    return f"""\
-- The public half of the agent's key; the private half never leaves the door. It replaces the key that
-- is in this slot of the user: a door with a key of its own needs a user of its own.
-- DESC USER must then show, as {plan.key_slot}_FP: {plan.fingerprint}
-- To change keys without a pause: badge-agent key rotate, which uses the user's other slot.
ALTER USER {plan.user} SET {plan.key_slot} = {literal(plan.public_key_line)};"""


def _network(plan: Plan) -> str:
    networks = _listed(plan.ipv4_networks if plan.allowed_networks else [_IPV4_SLOT])
    policy = f"""\
USE ROLE SECURITYADMIN;
CREATE NETWORK POLICY IF NOT EXISTS {plan.network_policy}
  ALLOWED_IP_LIST = {networks};
ALTER NETWORK POLICY {plan.network_policy} SET
  ALLOWED_IP_LIST = {networks};"""
    rule = f"""\
USE ROLE {plan.owner};
CREATE OR ALTER NETWORK RULE {plan.network_rule}
  TYPE = IPV6 VALUE_LIST = {_listed(plan.ipv6_networks or [_IPV6_SLOT])} MODE = INGRESS;
USE ROLE {USER_OWNER};
ALTER NETWORK POLICY {plan.network_policy} SET
  ALLOWED_NETWORK_RULE_LIST = ({literal(plan.network_rule)});"""
    assigned = f"""\
USE ROLE {USER_OWNER};
ALTER USER {plan.user} SET NETWORK_POLICY = {plan.network_policy};"""
    recommended = ""
    if not plan.allowed_networks:
        recommended = "\n-- Recommended: --allow-ip fills it in, or fill it in here and uncomment the lines."
        policy, assigned = commented(policy), commented(assigned)
    if not plan.ipv6_networks:
        rule = commented(rule)
    return f"""\
-- Limits the use of the key to the public addresses of the doors, so that a stolen key cannot be used
-- elsewhere. For this user it applies in place of the account's own policy.{recommended}
-- Needs CREATE NETWORK POLICY on the account, which SECURITYADMIN has. The policy is altered and not
-- replaced, because Snowflake does not replace one that is assigned.
{policy}

-- ALLOWED_IP_LIST takes IPv4 only. Doors that reach Snowflake by IPv6 need a network rule in the policy.
-- Needs CREATE NETWORK RULE on the schema, then OWNERSHIP of the rule and of the policy: {USER_OWNER} has
-- what {plan.owner} and SECURITYADMIN own.
{rule}

-- Needs OWNERSHIP of the user, and of the policy or ATTACH POLICY on the account.
{assigned}"""


def _listed(networks: list[str]) -> str:
    return f"({', '.join(map(literal, networks))})"


def _authentication(plan: Plan) -> str:
    return f"""\
-- Optional: the user may sign in with a key pair only. Whether the exchange of the key-pair token for a
-- scoped token works under such a policy is not documented: run badge-agent check on a door afterwards.
-- To undo it: ALTER USER {plan.user} UNSET AUTHENTICATION POLICY;
-- Needs CREATE AUTHENTICATION POLICY on the schema, then OWNERSHIP of the user, and APPLY AUTHENTICATION
-- POLICY on the account.
-- USE ROLE {plan.owner};
-- CREATE AUTHENTICATION POLICY IF NOT EXISTS {plan.authentication_policy}
--   AUTHENTICATION_METHODS = ('KEYPAIR');
-- USE ROLE {USER_OWNER};
-- ALTER USER {plan.user} SET AUTHENTICATION POLICY {plan.authentication_policy};"""


def _grants(plan: Plan) -> str:
    inserts = "\n".join(
        f"GRANT INSERT ON TABLE {table} TO ROLE {plan.role};" for table in (plan.table, plan.events_table)
    )
    operate = "\n".join(f"GRANT OPERATE ON PIPE {pipe} TO ROLE {plan.role};" for pipe in plan.every_pipe)
    return f"""\
-- What streaming needs: USAGE on database and schema, INSERT on the tables, OPERATE on the pipes. No
-- SELECT: a door cannot read the rows that it or another door sent. Needs OWNERSHIP of each object.
USE ROLE {plan.owner};
GRANT USAGE ON DATABASE {plan.database} TO ROLE {plan.role};
GRANT USAGE ON SCHEMA {plan.schema} TO ROLE {plan.role};
{inserts}
{operate}"""
