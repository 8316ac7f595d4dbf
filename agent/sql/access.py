"""The script that creates the service user, its role and network policy, with the least privileges."""

from __future__ import annotations

from agent.sql.names import literal
from agent.sql.plan import Plan

_KEY_SLOT = "<one line: badge-agent key public>"
_NETWORK_SLOT = "<203.0.113.0/24>"


def access(plan: Plan) -> str:
    """Role, user, key, network policy, grants."""
    return "\n\n".join([_role_and_user(plan), _key(plan), _network(plan), _grants(plan)])


def _role_and_user(plan: Plan) -> str:
    return f"""\
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

-- For a user that was there before.
ALTER USER {plan.user} SET TYPE = SERVICE DEFAULT_ROLE = {plan.role} DEFAULT_SECONDARY_ROLES = ();

GRANT ROLE {plan.role} TO USER {plan.user};"""


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
    networks = plan.allowed_networks or (_NETWORK_SLOT,)
    statements = f"""\
USE ROLE SECURITYADMIN;
CREATE OR ALTER NETWORK POLICY {plan.network_policy}
  ALLOWED_IP_LIST = ({", ".join(map(literal, networks))});
ALTER USER {plan.user} SET NETWORK_POLICY = {plan.network_policy};"""
    why = """\
-- From where the key may be used: the public addresses of the doors' networks.
-- A stolen key is then of no use elsewhere. For this user it replaces the account's own policy."""
    if plan.allowed_networks:
        return f"{why}\n{statements}"
    slots = "\n".join(f"-- {line}" for line in statements.splitlines())
    recommended = "-- Recommended: --allow-ip fills it in, or fill it in here and uncomment the lines."
    return f"{why}\n{recommended}\n{slots}"


def _grants(plan: Plan) -> str:
    operate = "\n".join(f"GRANT OPERATE ON PIPE {pipe} TO ROLE {plan.role};" for pipe in plan.pipes)
    return f"""\
-- All that streaming needs: see database and schema, add rows, use the pipe. No SELECT: what a
-- door has sent it cannot read again, nor what another one has.
USE ROLE SYSADMIN;
GRANT USAGE ON DATABASE {plan.database} TO ROLE {plan.role};
GRANT USAGE ON SCHEMA {plan.schema} TO ROLE {plan.role};
GRANT INSERT ON TABLE {plan.table} TO ROLE {plan.role};
{operate}"""
