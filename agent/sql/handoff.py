"""The script that returns the doors' configuration: TOML to paste, and statements to compare with."""

from __future__ import annotations

import json

from agent.sql.names import literal
from agent.sql.plan import DOORS_PER_PIPE, USER_OWNER, Plan

_ACCOUNT = "CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME()"


def handoff(plan: Plan) -> str:
    """One SELECT whose only value is the [snowflake] table, and statements to compare with."""
    parts = [
        literal('[snowflake]\naccount = "'),
        _ACCOUNT,
        literal(_after_account(plan)),
        f"LOWER(REPLACE({_ACCOUNT}, '_', '-'))",
        literal('.snowflakecomputing.com"\n'),
    ]
    select = "\n    || ".join(parts)
    return f"""\
-- The answer is the table [snowflake] of the doors' config.toml, with the account's own names.
-- The configuration that this script was written from has the account {plan.account}.
-- Needs no privilege. SHOW PIPES needs OWNERSHIP of a pipe, or MONITOR or OPERATE on it.
USE ROLE {plan.owner};
SELECT {select}
  AS config_toml;

-- The pipes; the column definition has their statements.
SHOW PIPES IN SCHEMA {plan.schema};

-- What is registered: RSA_PUBLIC_KEY_FP, after a rotation RSA_PUBLIC_KEY_2_FP, must be what
-- `badge-agent key fingerprint` prints, and LOGIN_NAME (not NAME) must be the doors' `user`.
-- If a door is refused, `badge-agent check` prints the code: 394300 no user has this LOGIN_NAME,
-- 394302 the token arrived more than a minute after its issue (the door's clock), 394307 another
-- account, 390144 another key. Snowflake's own reason is in
-- SELECT SYSTEM$GET_LOGIN_FAILURE_DETAILS('<the UUID of the message>');
-- Needs OWNERSHIP of the user: {USER_OWNER} has what USERADMIN owns.
USE ROLE {USER_OWNER};
DESC USER {plan.user};

-- What the role may do: USAGE on database and schema, INSERT on two tables, OPERATE on each pipe.
SHOW GRANTS TO ROLE {plan.role};"""


def _after_account(plan: Plan) -> str:
    lines = [
        '"',
        f"user = {_toml(plan.user_name)}",
        f"role = {_toml(plan.role_name)}",
        f"database = {_toml(plan.database_name)}",
        f"schema = {_toml(plan.schema_name)}",
        f"pipe = {_toml(plan.pipe_names[0])}",
        f"events_pipe = {_toml(plan.events_pipe_names[0])}",
    ]
    pairs = zip(plan.pipe_names, plan.events_pipe_names, strict=True)
    lines += [
        f"# for the doors from {number * DOORS_PER_PIPE + 1:,} on: "
        f"pipe = {_toml(pipe)} and events_pipe = {_toml(events_pipe)}"
        for number, (pipe, events_pipe) in enumerate(pairs)
        if number
    ]
    return "\n".join([*lines, 'url = "https://'])


def _toml(name: str) -> str:
    # Of printable characters a JSON string is a TOML string.
    return json.dumps(name, ensure_ascii=False)
