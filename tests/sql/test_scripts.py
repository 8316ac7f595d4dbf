"""The scripts: every statement is one that Snowflake documents, and no name gets out of its place."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import TokenType
from sqlglot import expressions as exp

from agent.errors import ConfigError
from agent.sql.columns import TRANSFORM_FUNCTIONS
from agent.sql.pipes import pipe_select
from agent.sql.plan import Plan
from agent.sql.scripts import SCRIPTS, every_script, script
from agent.sql.views import VIEWS
from tests.sql.blocks import inner_statements
from tests.sql.statements import GRAMMAR, kind, shape, statements
from tests.support.paths import ROOT

PLAN = Plan(
    account="MYORG-MYACCOUNT",
    database_name="SNOWFLAKE_EXAMPLE",
    schema_name="RAW_INGESTION",
    pipe_name="SFE_BADGE_EVENTS_PIPE",
    user_name="SFE_INGEST_USER",
    public_key_line="MIIBIjANBgkqhkiG9w0BAQ/+=",
    fingerprint="SHA256:abc=",
    allowed_networks=("203.0.113.0/24", "198.51.100.7"),
)
# Networks of both kinds, so that every statement is printed.
EVERYTHING = replace(PLAN, allowed_networks=("203.0.113.0/24", "2001:db8::/64"))
SCHEMAS = ("ANALYTICS_LAYER", "RAW_INGESTION")
QUOTED = replace(
    PLAN, database_name="a b", schema_name="a b", pipe_name="a b", user_name="a b", role_name="a b"
)

# Never a plain word: that might be one of the language, which is allowed as a name but is another token.
HOSTILE = st.text(
    st.sampled_from(" \"'`;-\\/*$(){}[]=,.abcé") | st.characters(exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=40,
).map(lambda name: f"{name.replace('$$', '$')}-")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("plan", [EVERYTHING, QUOTED, replace(PLAN, pipe_count=10)])
def test_every_statement_is_known_to_a_parser_or_to_the_reference(name: str, plan: Plan) -> None:
    for statement in statements(script(plan, name)):
        for one in inner_statements(statement) if "$$" in statement else [statement]:
            if kind(one) is None:
                parsed = sqlglot.parse_one(one, read="snowflake")
                assert not isinstance(parsed, exp.Command), one


def test_what_the_parser_knows_it_reads_as_what_it_is() -> None:
    found = [type(sqlglot.parse_one(text, read="snowflake")) for text in statements(script(PLAN, "views"))]

    assert found.count(exp.Create) == len(VIEWS) + 1


@given(names=st.tuples(*[HOSTILE] * 5))
@settings(max_examples=6, deadline=None)
def test_no_name_changes_what_a_script_does(names: tuple[str, ...]) -> None:
    database, schema, pipe, user, role = names
    plan = replace(
        PLAN, database_name=database, schema_name=schema, pipe_name=pipe, user_name=user, role_name=role
    )

    for name in SCRIPTS:
        assert shape(script(plan, name)) == quoted_shape(name)


@cache
def quoted_shape(name: str) -> list[TokenType]:
    return shape(script(QUOTED, name))


def test_running_a_script_again_changes_nothing_that_is_there() -> None:
    made = [text for text in statements(every_script(PLAN)) if text.startswith("CREATE")]

    for text in made:
        assert re.match(r"CREATE (\w+ )+IF NOT EXISTS |CREATE OR REPLACE (VIEW|PROCEDURE) ", text), text


def test_a_network_policy_that_is_assigned_is_altered_and_not_replaced() -> None:
    texts = [one for one in statements(script(PLAN, "access")) if "ALLOWED_IP_LIST" in one]

    assert [kind(one) for one in texts] == ["create network policy", "alter network policy"]


@pytest.mark.parametrize(
    ("networks", "ipv4"),
    [(("203.0.113.0/24", "2001:db8::/64"), "('203.0.113.0/24')"), (("2001:db8::/64",), "()")],
)
def test_ipv6_networks_become_a_rule_of_the_policy_before_the_user_gets_it(
    networks: tuple[str, ...], ipv4: str
) -> None:
    text = script(replace(PLAN, allowed_networks=networks), "access")

    rule = "SNOWFLAKE_EXAMPLE.RAW_INGESTION.SFE_INGEST_USER_IPV6"
    found = [one for one in statements(text) if "NETWORK" in one or one.startswith("USE ROLE")][2:-1]
    assert [re.sub(r"\s+", " ", one) for one in found] == [
        "USE ROLE SECURITYADMIN",
        f"CREATE NETWORK POLICY IF NOT EXISTS SFE_INGEST_USER_NETWORK ALLOWED_IP_LIST = {ipv4}",
        f"ALTER NETWORK POLICY SFE_INGEST_USER_NETWORK SET ALLOWED_IP_LIST = {ipv4}",
        "USE ROLE SYSADMIN",
        f"CREATE OR ALTER NETWORK RULE {rule} TYPE = IPV6 VALUE_LIST = ('2001:db8::/64') MODE = INGRESS",
        "USE ROLE ACCOUNTADMIN",
        f"ALTER NETWORK POLICY SFE_INGEST_USER_NETWORK SET ALLOWED_NETWORK_RULE_LIST = ('{rule}')",
        "USE ROLE ACCOUNTADMIN",
        "ALTER USER SFE_INGEST_USER SET NETWORK_POLICY = SFE_INGEST_USER_NETWORK",
    ]


@pytest.mark.parametrize("name", ["access", "handoff", "cleanup"])
def test_the_user_is_touched_by_the_role_that_also_owns_the_user_of_the_demo(name: str) -> None:
    """The demo makes its user as ACCOUNTADMIN: USERADMIN and SECURITYADMIN cannot alter, show or drop it."""
    role = ""
    for statement in statements(script(EVERYTHING, name)):
        if statement.startswith("USE ROLE"):
            role = statement.split()[-1]
        elif re.search(r"(ALTER|DESC|DROP) (USER|ROLE)|GRANT ROLE", statement):
            assert role == "ACCOUNTADMIN", statement


def test_the_pipes_use_functions_of_the_list_for_transformations_only() -> None:
    texts = [one for one in statements(script(PLAN, "setup")) if kind(one) == "create pipe"]
    plain = pipe_select(casts_only=True)

    assert len(texts) == 2
    for text in texts:
        assert functions(text) <= TRANSFORM_FUNCTIONS
    assert functions(plain) == set()
    assert "CASE" not in plain


def test_a_user_that_was_a_person_becomes_a_service_user() -> None:
    block = next(one for one in statements(script(PLAN, "access")) if one.startswith("EXECUTE IMMEDIATE"))

    first, *handler = inner_statements(block)

    assert first.startswith("ALTER USER SFE_INGEST_USER SET TYPE = SERVICE")
    assert re.match(r"ALTER USER SFE_INGEST_USER UNSET\s+PASSWORD, ", handler[0])
    assert handler[1:] == [first]


def test_without_an_ipv6_network_the_rule_is_a_comment() -> None:
    text = script(PLAN, "access")

    assert re.search(r"^-- CREATE OR ALTER NETWORK RULE \S+\n--   TYPE = IPV6 ", text, re.MULTILINE)
    assert not [one for one in statements(text) if "RULE" in one]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_change_of_role_is_preceded_by_the_privilege_that_it_is_for(name: str) -> None:
    before: list[str] = []
    without = []
    for line in script(PLAN, name).splitlines():
        if line.startswith("USE ROLE") and not re.search(r"\b(Needs|may)\b", "\n".join(before)):
            without.append(line)
        before = [*before, line] if line.startswith("--") else []

    assert without == []
    assert "USE ROLE" in script(PLAN, name)


def test_the_policy_that_allows_key_pairs_only_is_a_comment() -> None:
    """Whether the exchange of tokens works under it is not documented."""
    text = script(PLAN, "access")

    uncommented = text[text.index("-- Optional: the user may sign in with a key pair only") :]
    block = [line[3:] for line in uncommented.splitlines() if re.match(r"-- (USE|CREATE|ALTER|  )", line)]
    policy = "SNOWFLAKE_EXAMPLE.RAW_INGESTION.BADGE_KEYPAIR_ONLY"
    assert statements("\n".join(block)) == [
        "USE ROLE SYSADMIN",
        f"CREATE AUTHENTICATION POLICY IF NOT EXISTS {policy}\n  AUTHENTICATION_METHODS = ('KEYPAIR')",
        "USE ROLE ACCOUNTADMIN",
        f"ALTER USER SFE_INGEST_USER SET AUTHENTICATION POLICY {policy}",
    ]
    assert not [one for one in statements(text) if "AUTHENTICATION POLICY" in one]


def test_the_metrics_are_in_the_schema_of_the_views_and_in_that_of_the_demo() -> None:
    made = [one for one in statements(script(PLAN, "views")) if "VIEW" in one and "_METRICS COPY" in one]

    views, demo = (f"SNOWFLAKE_EXAMPLE.{schema}.V_INGESTION_METRICS" for schema in SCHEMAS)
    assert [one.split()[4] for one in made] == [views, demo]
    assert made[1].endswith(f"SELECT * FROM {views}")


@pytest.mark.parametrize("name", ["views", "dynamic-table"])
def test_copies_of_an_event_are_looked_for_within_one_agent(name: str) -> None:
    """Two doors that claim the same event are two events: a copied SD card must not hide a swipe."""
    numbered = re.findall(
        r"ROW_NUMBER\(\) OVER \(\s*PARTITION BY (\w+), COALESCE\(\s*event_id,", script(PLAN, name)
    )

    assert numbered == ["agent_id"]


def test_the_hand_over_explains_refused_sign_ins() -> None:
    text = script(PLAN, "handoff")

    for word in ("LOGIN_NAME", "394300", "394302", "394307", "SYSTEM$GET_LOGIN_FAILURE_DETAILS"):
        assert word in text


def functions(pipe: str) -> set[str]:
    return set(re.findall(r"\b([A-Z_]+)\(", pipe)) - {"TABLE", "DATA_SOURCE", "NUMBER"}


def test_what_is_replaced_keeps_its_grants() -> None:
    """Not a pipe: Snowflake has no COPY GRANTS for one, so its grants are printed after it. Nor an alert."""
    made = [one for name in SCRIPTS for one in statements(script(PLAN, name))]
    replaced = [one for one in made if re.match(r"CREATE OR REPLACE (?!PIPE|ALERT)", one)]

    assert len(replaced) == len(VIEWS) + 5
    assert all(" COPY GRANTS" in one for one in replaced)


def test_an_alert_looks_back_longer_than_to_its_run_before() -> None:
    alerts = [one for one in statements(script(PLAN, "alerts")) if "DATEADD" in one]

    assert len(alerts) == 2
    for alert in alerts:
        schedule, window = re.search(r"'(\d+) MINUTE'", alert), re.search(r"'minute', -(\d+)", alert)
        assert schedule
        assert window
        assert int(window[1]) > int(schedule[1])


def test_nothing_is_dropped_unless_the_cleanup_is_asked_for() -> None:
    everything = statements(every_script(PLAN))

    assert not [text for text in everything if text.startswith("DROP")]
    assert {text.split()[0] for text in statements(script(PLAN, "cleanup"))} == {"USE", "DROP"}


CREATED = re.compile(
    r"^(?:-- )?CREATE (?:OR REPLACE |OR ALTER )?(?:SECURE |NOTIFICATION )?"
    r"((?:NETWORK |MASKING |DYNAMIC |AUTHENTICATION )?[A-Z]+) (?:IF NOT EXISTS )?(?!IF)([A-Z][\w.]+)",
    re.MULTILINE,
)


def test_everything_that_is_made_is_dropped_but_what_others_may_use() -> None:
    """Also what a comment offers, such as the authentication policy."""
    made = {found for name in SCRIPTS for found in CREATED.findall(script(PLAN, name))}

    dropped = {
        (match[1], match[2])
        for text in statements(script(PLAN, "cleanup"))
        if (match := re.match(r"DROP ([A-Z ]+?) IF EXISTS ([\w.]+)", text))
    }

    assert {kind for kind, _ in made - dropped} == {"DATABASE", "SCHEMA"}
    assert dropped <= made


def test_the_role_gets_what_streaming_needs_and_no_more() -> None:
    grants = [text for text in statements(every_script(PLAN)) if text.startswith("GRANT")]

    assert [text.partition(" TO ")[0] for text in grants] == [
        "GRANT ROLE SFE_INGEST_ROLE",
        "GRANT ROLE SFE_INGEST_ROLE",
        "GRANT USAGE ON DATABASE SNOWFLAKE_EXAMPLE",
        "GRANT USAGE ON SCHEMA SNOWFLAKE_EXAMPLE.RAW_INGESTION",
        "GRANT INSERT ON TABLE SNOWFLAKE_EXAMPLE.RAW_INGESTION.RAW_BADGE_EVENTS",
        "GRANT INSERT ON TABLE SNOWFLAKE_EXAMPLE.RAW_INGESTION.RAW_DOOR_EVENTS",
        "GRANT OPERATE ON PIPE SNOWFLAKE_EXAMPLE.RAW_INGESTION.SFE_BADGE_EVENTS_PIPE",
        "GRANT OPERATE ON PIPE SNOWFLAKE_EXAMPLE.RAW_INGESTION.SFE_DOOR_EVENTS_PIPE",
    ]


def test_more_pipes_are_added_beside_the_first() -> None:
    three = replace(PLAN, pipe_count=3)

    assert three.pipe_names == [
        "SFE_BADGE_EVENTS_PIPE",
        "SFE_BADGE_EVENTS_PIPE_2",
        "SFE_BADGE_EVENTS_PIPE_3",
    ]
    for name in ("setup", "access", "cleanup"):
        assert all(pipe in script(three, name) for pipe in three.every_pipe)
    assert three.events_pipe_names[1:] == ["SFE_DOOR_EVENTS_PIPE_2", "SFE_DOOR_EVENTS_PIPE_3"]
    others = 'pipe = "SFE_BADGE_EVENTS_PIPE_3" and events_pipe = "SFE_DOOR_EVENTS_PIPE_3"'
    assert f"# for the doors from 3,601 on: {others}" in script(three, "handoff")


def test_without_a_key_or_a_network_there_is_a_slot_that_does_nothing() -> None:
    plan = replace(PLAN, public_key_line=None, fingerprint=None, allowed_networks=())

    text = script(plan, "access")

    assert "-- ALTER USER SFE_INGEST_USER SET RSA_PUBLIC_KEY = '<" in text
    assert "-- ALTER USER SFE_INGEST_USER SET NETWORK_POLICY = " in text
    assert not [one for one in statements(text) if "RSA_PUBLIC_KEY" in one or "NETWORK" in one]


def test_the_handoff_is_toml_to_paste() -> None:
    plan = replace(PLAN, pipe_count=2, pipe_name='the "door"', role_name="straße")
    select = next(text for text in statements(script(plan, "handoff")) if text.startswith("SELECT"))

    pasted = tomllib.loads(concatenated(select, organization="MYORG", account="MY_ACCOUNT"))

    assert pasted == {
        "snowflake": {
            "account": "MYORG-MY_ACCOUNT",
            "user": "SFE_INGEST_USER",
            "role": "straße",
            "database": "SNOWFLAKE_EXAMPLE",
            "schema": "RAW_INGESTION",
            "pipe": 'the "door"',
            "events_pipe": "SFE_DOOR_EVENTS_PIPE",
            "url": "https://myorg-my-account.snowflakecomputing.com",
        }
    }


def concatenated(select: str, *, organization: str, account: str) -> str:
    """The value of a SELECT that joins texts and the account's names, as Snowflake would answer it."""
    identifier = f"'{organization}-{account}'"
    names = "CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME()"
    folded = select.replace(
        f"LOWER(REPLACE({names}, '_', '-'))", identifier.lower().replace("_", "-")
    ).replace(names, identifier)
    texts = [
        token.text
        for token in sqlglot.tokenize(folded, read="snowflake")
        if token.token_type.name == "STRING"
    ]
    return "".join(texts)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"database_name": ""}, "snowflake.database is empty"),
        ({"pipe_name": "a\nb"}, "snowflake.pipe holds a line break"),
        ({"pipe_name": "x" * 254, "pipe_count": 2}, "snowflake.pipe has 256 characters"),
        ({"pipe_count": 11}, "11 pipes: a table takes 1 to 10"),
        ({"allowed_networks": ("0.0.0.0/0'); --",)}, "is no IP address or range"),
        ({"events_pipe_name": "a\nb"}, "snowflake.events_pipe holds a line break"),
        ({"events_pipe_name": "sfe_badge_events_pipe"}, "events_pipe has the name of a pipe for swipes"),
        ({"database_name": "a$$b"}, "snowflake.database holds $$"),
    ],
)
def test_what_snowflake_would_not_take_is_refused_with_its_place(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(PLAN, **change)  # type: ignore[arg-type] # one field or two, each of its own type

    assert any(problem in one for one in refused.value.problems)


def test_every_line_fits_a_screen_but_those_that_are_one_long_word() -> None:
    long = [
        line
        for name in SCRIPTS
        for line in script(PLAN, name).splitlines()
        if len(line) > 120 and "RSA_PUBLIC_KEY" not in line
    ]

    assert long == []


def test_the_document_says_of_every_kind_of_statement_how_it_is_checked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("## 10. How the account's SQL is checked") :].partition("\n\nProcessor seconds")[
        0
    ]

    named = re.findall(r"`([\w ]+)`", table)
    proofs = re.findall(r"`(tests/[^`:]+)::(\w+)`", table)

    assert set(GRAMMAR) <= set(named)
    assert len(proofs) > 10
    for file, name in proofs:
        assert f"def {name}(" in (ROOT / file).read_text(), name
