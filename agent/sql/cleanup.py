"""The script that removes what the others created."""

from __future__ import annotations

from agent.sql.plan import Plan
from agent.sql.views import VIEWS


def cleanup(plan: Plan) -> str:
    """All that the scripts made, but for database and schemas, which may hold objects of others."""
    views = "\n".join(f"DROP VIEW IF EXISTS {plan.view(view.name)};" for view in reversed(VIEWS))
    views = f"DROP VIEW IF EXISTS {plan.demo_metrics};\n{views}"
    pipes = "\n".join(f"DROP PIPE IF EXISTS {pipe};" for pipe in plan.every_pipe)
    return f"""\
-- Stop the agents first: sudo systemctl stop badge-agent. Until then they keep their swipes and
-- try again, and nothing is lost but what this script drops.
USE ROLE {plan.owner};
{views}
DROP PROCEDURE IF EXISTS {plan.purge}(TIMESTAMP_NTZ);
DROP PROCEDURE IF EXISTS {plan.erase}(VARCHAR, VARCHAR);

-- The channels and their positions go with their pipe. To drop every one of several, print this
-- script with the --pipes they were made with.
{pipes}

-- The rows. For a day (DATA_RETENTION_TIME_IN_DAYS) UNDROP TABLE brings them back.
DROP TABLE IF EXISTS {plan.table};
DROP TABLE IF EXISTS {plan.events_table};
DROP TABLE IF EXISTS {plan.purged};
DROP TABLE IF EXISTS {plan.expected_doors};

-- The key is worth nothing without its user. The policy can be dropped once no user has it.
USE ROLE SECURITYADMIN;
DROP USER IF EXISTS {plan.user};
DROP ROLE IF EXISTS {plan.role};
DROP NETWORK POLICY IF EXISTS {plan.network_policy};

-- These may hold what other people made. If they do not:
-- USE ROLE SYSADMIN;
-- DROP SCHEMA IF EXISTS {plan.views_schema};
-- DROP SCHEMA IF EXISTS {plan.schema};
-- DROP DATABASE IF EXISTS {plan.database};"""
