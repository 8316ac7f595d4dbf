"""The dashboard, run by Streamlit's own AppTest over the views in the local engine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from agent.sql.scripts import dashboard
from tests.sql.doors import Door, door_rows
from tests.sql.engines import PLAN, DuckDbAccount
from tests.support.needs import STREAMLIT, needs
from tests.support.paths import ROOT

FILE = ROOT / "agent" / "sql" / "dashboard.py"

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Query:
    """A query of the session that Streamlit in Snowflake gives to an app."""

    account: DuckDbAccount
    text: str

    def to_pandas(self) -> Any:  # noqa: ANN401 - of a library without types here
        return self.account.frame(self.text)


@pytest.fixture
def app(account: DuckDbAccount, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - as below
    needs(STREAMLIT)
    import streamlit  # noqa: PLC0415 - not on every machine
    from streamlit.testing.v1 import AppTest  # noqa: PLC0415 - as above

    class Session:
        def sql(self, text: str) -> Query:
            return Query(account, text)

    context = ModuleType("snowflake.snowpark.context")
    context.get_active_session = Session  # type: ignore[attr-defined] # a module made here
    monkeypatch.setitem(sys.modules, "snowflake.snowpark", ModuleType("snowflake.snowpark"))
    monkeypatch.setitem(sys.modules, "snowflake.snowpark.context", context)
    streamlit.cache_data.clear()
    # The file itself, so that its coverage is measured: what is printed for this plan is the same.
    assert FILE.read_text() == dashboard(PLAN)
    return AppTest.from_file(FILE, default_timeout=120)


def metrics(app: Any) -> dict[str, str]:  # noqa: ANN401 - as above
    return {metric.label: metric.value for metric in app.metric}


def test_an_empty_account_is_a_page_without_an_error(app: Any) -> None:  # noqa: ANN401 - as above
    app.run()

    assert not app.exception
    assert metrics(app) == {
        "Doors": "0",
        "Doors without a problem": "0",
        "Missing rows": "0",
        "Chain problems": "0",
    }
    assert [one.value for one in app.success] == [
        "No number is missing.",
        "Every row follows from the row before it.",
        "No row was skipped.",
    ]


def test_doors_gaps_latency_and_traffic_are_shown(app: Any, account: DuckDbAccount) -> None:  # noqa: ANN401 - as above
    lines = door_rows("door-1", [50.0, 40.0, 30.0, 20.0])
    account.load([*lines[:1], *lines[3:]])
    account.report(Door("door-2").heartbeat(), Door("door-3").heartbeat(readers_lost=1))

    app.run()

    assert not app.exception
    assert metrics(app) == {
        "Doors": "3",
        "Doors without a problem": "2",
        "Missing rows": "2",
        "Chain problems": "1",
    }
    tables = [frame.value for frame in app.dataframe]
    fleet = tables[0].set_index("agent_id")["status"].to_dict()
    assert fleet == {"door-1": "NO HEARTBEATS", "door-2": "OK", "door-3": "READER LOST"}
    assert [list(one["first_missing_seq"]) for one in tables if "first_missing_seq" in one] == [[2]]
    assert [list(one["event_count"]) for one in tables if "late_count" in one] == [[2]]

    app.multiselect[0].set_value(["READER LOST"]).run()

    assert list(app.dataframe[0].value["agent_id"]) == ["door-3"]


def test_every_door_of_a_large_fleet_is_counted(app: Any, account: DuckDbAccount) -> None:  # noqa: ANN401 - as above
    account.generate(
        f"INSERT INTO {PLAN.expected_doors} SELECT 'door-' || i, 'HQ', NULL FROM RANGE(2000) t(i)"
    )

    app.run()

    assert metrics(app)["Doors"] == "2000"
    assert len(app.warning) == 0


def test_numbers_that_are_cut_off_are_marked(app: Any, account: DuckDbAccount) -> None:  # noqa: ANN401 - as above
    account.generate(
        f"INSERT INTO {PLAN.expected_doors} SELECT 'door-' || i, 'HQ', NULL FROM RANGE(20001) t(i)"
    )

    app.run()

    assert metrics(app)["Doors"] == "20000"
    assert [one.value[:37] for one in app.warning] == ["A view has more than 20,000 rows: the"]


def test_the_page_names_no_person(app: Any, account: DuckDbAccount) -> None:  # noqa: ANN401 - as above
    account.load(door_rows("door-1", [50.0, 40.0]))

    app.run()

    shown = " ".join(str(frame.value) + str(list(frame.value)) for frame in app.dataframe)
    assert "door-1" in shown
    assert "123-" not in shown
    assert "badge_id" not in shown
