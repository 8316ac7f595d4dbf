"""The scripts by name and in order, each with its heading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from types import MappingProxyType

from agent.sql.access import access
from agent.sql.cleanup import cleanup
from agent.sql.handoff import handoff
from agent.sql.options import alerts, costs, dynamic_table
from agent.sql.pipes import replacement
from agent.sql.plan import Plan
from agent.sql.privacy import privacy
from agent.sql.procedures import procedures
from agent.sql.setup import setup
from agent.sql.views import views

_WIDTH = 98

_SCRIPTS: Mapping[str, tuple[str, Callable[[Plan], str]]] = MappingProxyType(
    {
        "setup": ("Database, schemas, table, pipes", setup),
        "access": ("Role, service user, key, network, grants", access),
        "handoff": ("What the doors need to know", handoff),
        "views": ("Is every row here, and is every door healthy?", views),
        "procedures": ("Delete old rows, erase persons", procedures),
        "dynamic-table": ("A table with every event once", dynamic_table),
        "alerts": ("Emails while something is wrong", alerts),
        "privacy": ("Roles that read, sites, masks", privacy),
        "costs": ("What it costs, and the history of the channels", costs),
        "replace-pipe": ("Replace pipes of an earlier version or of the demo", replacement),
        "cleanup": ("Remove everything again", cleanup),
    }
)

SCRIPTS = tuple(_SCRIPTS)

# Run to set up an account; the others only where they are needed.
STANDARD = ("setup", "access", "handoff", "views", "procedures")

_INTRODUCTION = """\
-- What a Snowflake account needs to receive badge swipes. Run it from top to bottom, in a worksheet
-- or with `snow sql`, as a user who has the roles named in USE ROLE: SYSADMIN, USERADMIN, SECURITYADMIN
-- and ACCOUNTADMIN. It can be run again: databases, tables, pipes, roles and users that exist are kept,
-- columns that a table lacks are added, views and procedures are replaced, the key and the allowed
-- networks are set to those printed here. Last, on a door: badge-agent check, or badge-agent send-sample."""

_WAY_BACK = """\
-- More is printed with --only: dynamic-table, alerts, privacy, costs, dashboard, replace-pipe, and the way
-- back, cleanup."""


def script(plan: Plan, name: str) -> str:
    """One script, under its heading."""
    title, render = _SCRIPTS[name]
    return f"-- {f' {title} ':=^{_WIDTH - 3}}\n\n{render(plan)}\n"


def dashboard(plan: Plan) -> str:
    """The Streamlit app, with the schema of the views; Python and no SQL."""
    app = files("agent.sql").joinpath("dashboard.py").read_text(encoding="utf-8")
    return re.sub(r"(?m)^VIEWS_SCHEMA = .*$", lambda _: f"VIEWS_SCHEMA = {_python(plan.views_schema)}", app)


def _python(text: str) -> str:
    # Of printable characters a JSON string is a Python string.
    return json.dumps(text, ensure_ascii=False)


def every_script(plan: Plan) -> str:
    """All that is run to set up an account, in order."""
    rendered = [script(plan, name) for name in STANDARD]
    return "\n\n".join([_INTRODUCTION, *rendered, _WAY_BACK]) + "\n"
