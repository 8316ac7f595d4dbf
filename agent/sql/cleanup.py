"""The script that removes what the others created."""

from __future__ import annotations

from agent.sql.options import ALERTS, INTEGRATION
from agent.sql.plan import USER_OWNER, Plan
from agent.sql.privacy import OPERATOR, READER
from agent.sql.views import VIEWS


def cleanup(plan: Plan) -> str:
    """All that the scripts made, but for database and schemas, which may hold objects of others."""
    views = "\n".join(f"DROP VIEW IF EXISTS {plan.view(view.name)};" for view in reversed(VIEWS))
    views = f"DROP VIEW IF EXISTS {plan.demo_metrics};\n{views}"
    alerts = "\n".join(f"DROP ALERT IF EXISTS {plan.view(name)};" for name in ALERTS)
    pipes = "\n".join(f"DROP PIPE IF EXISTS {pipe};" for pipe in plan.every_pipe)
    return f"""\
-- Drops the rows of all doors. On an account with the demo it also drops objects of the demo that have
-- the same names: table, pipe, user, role and V_INGESTION_METRICS.
-- Stop the agents first: sudo systemctl stop badge-agent. They keep the swipes that are not delivered.
-- Needs OWNERSHIP of each object, as every DROP below.
USE ROLE {plan.owner};
{alerts}
DROP VIEW IF EXISTS {plan.view("V_BADGE_EVENTS_BY_SITE")};
DROP DYNAMIC TABLE IF EXISTS {plan.dynamic_table};
{views}
DROP PROCEDURE IF EXISTS {plan.purge}(TIMESTAMP_NTZ);
DROP PROCEDURE IF EXISTS {plan.erase}(VARCHAR, VARCHAR);

-- A pipe is dropped with its channels and their positions. If there are several, print this script with
-- the --pipes that they were made with.
{pipes}

-- The rows. UNDROP TABLE restores a table within DATA_RETENTION_TIME_IN_DAYS (a day unless set).
DROP TABLE IF EXISTS {plan.table};
DROP TABLE IF EXISTS {plan.events_table};
DROP TABLE IF EXISTS {plan.purged};
DROP TABLE IF EXISTS {plan.expected_doors};
DROP TABLE IF EXISTS {plan.site_roles};

-- No key can be used without its user. A policy can be dropped when no user has it.
-- Needs OWNERSHIP of the user, the roles and the policy: {USER_OWNER} has what USERADMIN and SECURITYADMIN
-- own.
USE ROLE {USER_OWNER};
DROP USER IF EXISTS {plan.user};
DROP ROLE IF EXISTS {plan.role};
DROP ROLE IF EXISTS {READER};
DROP ROLE IF EXISTS {OPERATOR};
DROP NETWORK POLICY IF EXISTS {plan.network_policy};

-- These can be dropped when no user, network policy or table has them.
-- Needs OWNERSHIP of each.
USE ROLE {plan.owner};
DROP NETWORK RULE IF EXISTS {plan.network_rule};
DROP AUTHENTICATION POLICY IF EXISTS {plan.authentication_policy};
DROP MASKING POLICY IF EXISTS {plan.mask("VARCHAR")};
DROP MASKING POLICY IF EXISTS {plan.mask("NUMBER")};
DROP MASKING POLICY IF EXISTS {plan.mask("VARIANT")};
DROP TAG IF EXISTS {plan.tag};

-- Needs OWNERSHIP of the integration, which ACCOUNTADMIN made.
USE ROLE ACCOUNTADMIN;
DROP INTEGRATION IF EXISTS {INTEGRATION};

-- Schemas and database may hold objects of others. If they do not:
-- USE ROLE SYSADMIN;
-- DROP SCHEMA IF EXISTS {plan.views_schema};
-- DROP SCHEMA IF EXISTS {plan.schema};
-- DROP DATABASE IF EXISTS {plan.database};"""
