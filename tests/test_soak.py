"""What the soak makes of its samples."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from bench.soak import Sample, figures
from bench.soak_plot import Panel, draw

FLAT = [Sample(5.0 * number, 48_000, 21, 6, 1_000, 1_100, 0, 50 * number) for number in range(30)]


def test_a_process_that_holds_the_same_meets_every_target() -> None:
    assert all(figure.holds for figure in figures(FLAT))


@pytest.mark.parametrize("name", ["rss_kb", "descriptors", "threads", "outbox_kb"])
def test_what_grows_by_a_fifth_misses_its_target(name: str) -> None:
    grown = [
        replace(sample, **{name: int(getattr(sample, name) * (1 + 0.5 * number / len(FLAT)))})
        for number, sample in enumerate(FLAT)
    ]

    assert [figure.holds for figure in figures(grown)].count(False) == 1


def test_one_large_write_ahead_log_misses_its_target() -> None:
    samples = [*FLAT, replace(FLAT[0], wal_kb=9_000)]

    assert [figure.name for figure in figures(samples) if not figure.holds] == ["largest write-ahead log"]


def test_a_plot_has_a_curve_and_a_shaded_outage_in_each_panel() -> None:
    panels = [
        Panel("memory <KB>", [0.0, 1.0, 2.0], [1.0, 3.0, 2.0]),
        Panel("threads", [0.0, 2.0], [6.0, 6.0]),
    ]

    picture = ET.fromstring(draw("a soak", panels, "minutes", [(0.2, 0.7)]))  # noqa: S314 - our own text

    kinds = [element.tag.partition("}")[2] for element in picture.iter()]
    assert kinds.count("polyline") == 2
    assert [element.get("fill") for element in picture.iter()].count("#f5dcc8") == 2
