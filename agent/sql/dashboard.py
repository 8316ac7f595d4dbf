"""Badge doors: fleet, missing rows, latency and traffic, from the views of `badge-agent sql`.

A Streamlit app for Snowflake. In Snowsight: Projects > Streamlit > + Streamlit App, database and schema of
the views, then paste this file. The role that owns the app needs SELECT on the views (BADGE_OPERATOR has it);
the app names no person. It needs no package beyond those that Streamlit in Snowflake has.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st
from snowflake.snowpark.context import get_active_session

# `badge-agent sql --only dashboard` prints this file with the configured database.
VIEWS_SCHEMA = "SNOWFLAKE_EXAMPLE.ANALYTICS_LAYER"

# Results are kept for this long, so that several viewers cost one query.
CACHE_S = 60

# As many doors as ten pipes take.
MOST_ROWS = 20_000


@st.cache_data(ttl=CACHE_S, show_spinner=False)
def rows(view: str) -> pd.DataFrame:
    """The first MOST_ROWS rows of a view, its columns in lower case."""
    found = get_active_session().sql(f"SELECT * FROM {VIEWS_SCHEMA}.{view} LIMIT {MOST_ROWS}").to_pandas()
    return found.rename(columns=str.lower)


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="Badge doors", layout="wide")
    st.title("Badge doors")
    fleet, gaps, chain = rows("V_FLEET"), rows("V_DOOR_GAPS"), rows("V_DOOR_CHAIN")
    _headline(fleet, gaps, chain)
    if max(map(len, (fleet, gaps, chain))) == MOST_ROWS:
        st.warning(f"A view has more than {MOST_ROWS:,} rows: the numbers above count the first ones only.")
    doors, missing, latency, traffic = st.tabs(["Doors", "Missing and altered rows", "Latency", "Traffic"])
    with doors:
        _fleet(fleet)
    with missing:
        _problems(gaps, chain)
    with latency:
        _latency()
    with traffic:
        _traffic()


def _headline(fleet: pd.DataFrame, gaps: pd.DataFrame, chain: pd.DataFrame) -> None:
    healthy = int(fleet["status"].isin(["OK", "NO HEARTBEATS"]).sum())
    missing = int(gaps["missing_count"].sum())
    columns = st.columns(4)
    columns[0].metric("Doors", len(fleet))
    columns[1].metric("Doors without a problem", healthy)
    columns[2].metric("Missing rows", missing)
    columns[3].metric("Chain problems", len(chain))


def _fleet(fleet: pd.DataFrame) -> None:
    if fleet.empty:
        st.info("No door has sent anything, and EXPECTED_DOORS is empty.")
        return
    chosen = st.multiselect("Status", sorted(fleet["status"].unique()))
    st.dataframe(fleet[fleet["status"].isin(chosen)] if chosen else fleet, hide_index=True)


def _problems(gaps: pd.DataFrame, chain: pd.DataFrame) -> None:
    st.subheader("Missing rows")
    _table(gaps, "No number is missing.")
    st.subheader("Chain")
    _table(chain, "Every row follows from the row before it.")
    st.subheader("Rows that Snowflake skipped")
    _table(rows("V_CHANNEL_ERRORS"), "No row was skipped.")


def _latency() -> None:
    daily = rows("V_LATENCY_DAILY")
    if daily.empty:
        st.info("No row with a measured time arrived in the last 90 days.")
        return
    daily = daily.sort_values("arrival_day").set_index("arrival_day")
    st.subheader("Seconds from the swipe to the row")
    st.line_chart(daily[["p50_seconds", "p95_seconds", "p99_seconds"]].astype(float))
    st.subheader("Share within the target, in percent")
    st.line_chart(daily[["within_target_pct"]].astype(float))
    st.subheader("Doors, the slowest first, last 24 hours")
    _table(rows("V_END_TO_END_LATENCY"), "No row arrived in the last 24 hours.")


def _traffic() -> None:
    hours = rows("V_INGESTION_METRICS")
    if hours.empty:
        st.info("No row arrived in the last 24 hours.")
        return
    hours = hours.sort_values("ingestion_hour").set_index("ingestion_hour")
    st.bar_chart(hours[["entry_count", "exit_count"]].astype(float))
    st.dataframe(hours)


def _table(found: pd.DataFrame, empty: str) -> None:
    if found.empty:
        st.success(empty)
    else:
        st.dataframe(found, hide_index=True)


if __name__ == "__main__":
    main()
