"""The privacy kit: roles that read the views, a view of one's own sites, tags and masks for the table."""

from __future__ import annotations

from agent.sql.names import literal, stored
from agent.sql.plan import Plan
from agent.sql.views import EVENTS, PASSBACK, PRESENT, VIEWS

OPERATOR, READER = "BADGE_OPERATOR", "BADGE_READER"

# The views that name persons; the others name doors, numbers and times only.
PERSONAL_VIEWS = frozenset({EVENTS, PRESENT, PASSBACK})

_MASKED = {
    "badge_id": "VARCHAR",
    "user_id": "VARCHAR",
    "card_raw": "VARCHAR",
    "person_salt": "VARCHAR",
    "card_number": "NUMBER",
    "facility_code": "NUMBER",
    "raw_json": "VARIANT",
}
_MASKS = {"VARCHAR": "'***'", "NUMBER": "NULL", "VARIANT": "NULL"}


def privacy(plan: Plan) -> str:
    """Roles and grants; rows by site; and, for an Enterprise account, tags and masking policies."""
    return "\n\n".join([_roles(plan), _by_site(plan), _masks(plan), _retention(plan)])


def _roles(plan: Plan) -> str:
    usage = "\n".join(
        f"GRANT USAGE ON DATABASE {plan.database} TO ROLE {role};\n"
        f"GRANT USAGE ON SCHEMA {plan.views_schema} TO ROLE {role};"
        for role in (OPERATOR, READER)
    )
    impersonal = "\n".join(
        f"GRANT SELECT ON VIEW {plan.view(view.name)} TO ROLE {OPERATOR};"
        for view in VIEWS
        if view not in PERSONAL_VIEWS
    )
    personal = "\n".join(
        f"GRANT SELECT ON VIEW {plan.view(view.name)} TO ROLE {READER};"
        for view in VIEWS
        if view in PERSONAL_VIEWS
    )
    monitor = "\n".join(f"GRANT MONITOR ON PIPE {pipe} TO ROLE {OPERATOR};" for pipe in plan.every_pipe)
    return f"""\
-- Two roles without a privilege on the tables. {OPERATOR} can read doors, numbers, times and the logins
-- of those who ran commands at a door, and nothing of badge holders; {READER} can also read who was
-- where. Grant them to people (GRANT ROLE {OPERATOR} TO USER ...), and a warehouse to the roles:
-- GRANT USAGE ON WAREHOUSE {plan.warehouse} TO ROLE {OPERATOR};
-- Needs CREATE ROLE on the account, which USERADMIN has, and OWNERSHIP of the roles that are granted.
USE ROLE USERADMIN;
CREATE ROLE IF NOT EXISTS {OPERATOR} COMMENT = 'badge-agent: health of the doors, no personal data';
CREATE ROLE IF NOT EXISTS {READER} COMMENT = 'badge-agent: who was where';
GRANT ROLE {OPERATOR} TO ROLE {READER};
GRANT ROLE {READER} TO ROLE {plan.owner};

-- What each role may use. Needs OWNERSHIP of database, schemas, views and pipes.
USE ROLE {plan.owner};
{usage}
GRANT USAGE ON SCHEMA {plan.schema} TO ROLE {OPERATOR};
{impersonal}
{personal}
{monitor}"""


def _by_site(plan: Plan) -> str:
    return f"""\
-- For roles that may see their own sites only. A row of SITE_ROLES lets a role see the doors that
-- EXPECTED_DOORS has for this site. Write the role in upper case, unless it was created in quotes. Grant
-- such a role SELECT on this view, and not on {EVENTS.name}.
CREATE TABLE IF NOT EXISTS {plan.site_roles} (
  site       VARCHAR NOT NULL,
  role_name  VARCHAR NOT NULL
);
CREATE OR REPLACE SECURE VIEW {plan.view("V_BADGE_EVENTS_BY_SITE")} COPY GRANTS AS
SELECT events.*
FROM {plan.view(EVENTS.name)} AS events
WHERE EXISTS (
  SELECT 1
  FROM {plan.expected_doors} AS doors
  JOIN {plan.site_roles} AS allowed ON allowed.site = doors.site
  WHERE doors.agent_id = events.agent_id AND IS_ROLE_IN_SESSION(allowed.role_name)
);"""


def _masks(plan: Plan) -> str:
    owner = literal(stored(plan.owner))
    policies = "\n".join(
        f"CREATE MASKING POLICY IF NOT EXISTS {plan.mask(kind)} AS (val {kind})\n"
        f"  RETURNS {kind} ->\n"
        f"  CASE WHEN INVOKER_ROLE() = {owner} OR IS_ROLE_IN_SESSION('{READER}') THEN val ELSE {mask} END;"
        for kind, mask in _MASKS.items()
    )
    applied = "\n".join(
        f"ALTER TABLE {plan.table} MODIFY COLUMN {name}\n  SET TAG {plan.tag} = 'person';\n"
        f"ALTER TABLE {plan.table} MODIFY COLUMN {name}\n  SET MASKING POLICY {plan.mask(kind)} FORCE;"
        for name, kind in _MASKED.items()
    )
    return f"""\
-- The rest needs an Enterprise account. The masks protect the table itself: another role that gets SELECT
-- on it reads masked values. Within the views INVOKER_ROLE() is their owner, so that they read the real
-- values: V_DOOR_CHAIN over masks would list every row. The dynamic table, if there is one, holds the
-- real values: grant it to {READER} only.
-- Needs CREATE TAG and CREATE MASKING POLICY on the schema, and OWNERSHIP of the table, the tag and the
-- policies, or APPLY TAG and APPLY MASKING POLICY on the account.
CREATE TAG IF NOT EXISTS {plan.tag} COMMENT = 'personal data of badge holders';
{policies}
{applied}"""


def _retention(plan: Plan) -> str:
    return f"""\
-- Deleted and erased values can be read for this many days (Time Travel), then for 7 more by Snowflake's
-- support (Fail-safe). 0 turns Time Travel off, and with it UNDROP TABLE and the incremental refresh of
-- the dynamic table.
-- ALTER TABLE {plan.table} SET DATA_RETENTION_TIME_IN_DAYS = 1;"""
