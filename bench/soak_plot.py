"""A plot of several measured values over the same time, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT = 860, 70, 20
_PANEL, _GAP, _TOP, _BOTTOM = 90, 34, 66, 44
_LINE_CHARACTERS = 110
_TICKS = 6


@dataclass(frozen=True, slots=True)
class Panel:
    """One value over time, from zero up."""

    title: str
    times: Sequence[float]
    values: Sequence[float]


def draw(title: str, panels: Sequence[Panel], unit: str, outages: Sequence[tuple[float, float]] = ()) -> str:
    """One panel below the other; outages are shaded. `unit` is that of all times, which begin at 0."""
    length = max(panels[0].times[-1], 1e-9)
    height = _TOP + len(panels) * (_PANEL + _GAP) + _BOTTOM
    scale = (_WIDTH - _LEFT - _RIGHT) / length
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    parts += [
        f'<text x="{_LEFT}" y="{20 + 16 * number}">{escape(line)}</text>'
        for number, line in enumerate(_lines(title))
    ]
    for number, panel in enumerate(panels):
        top = _TOP + number * (_PANEL + _GAP)
        parts += [
            f'<rect x="{_LEFT + begun * scale:.1f}" y="{top}" height="{_PANEL}" '
            f'width="{max(1.0, (min(ended, length) - begun) * scale):.1f}" fill="#f5dcc8"/>'
            for begun, ended in outages
        ]
        parts += _curve(panel, top, scale)
    below = _TOP + len(panels) * (_PANEL + _GAP) - _GAP
    for tick in range(_TICKS + 1):
        at = length * tick / _TICKS
        x = _LEFT + at * scale
        parts.append(f'<text x="{x:.1f}" y="{below + 16}" text-anchor="middle">{at:.0f}</text>')
    legend = f"{unit}; outages are shaded" if outages else unit
    parts += [
        f'<text x="{_WIDTH - _RIGHT}" y="{below + 34}" text-anchor="end">{legend}</text>',
        "</svg>\n",
    ]
    return "\n".join(parts)


def _curve(panel: Panel, top: int, scale: float) -> list[str]:
    highest = max(*panel.values, 1.0)
    points = " ".join(
        f"{_LEFT + at * scale:.1f},{top + _PANEL * (1 - value / highest):.1f}"
        for at, value in zip(panel.times, panel.values, strict=True)
    )
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_PANEL}"',
        ' fill="none" stroke="#999"/>',
        f'<text x="{_LEFT}" y="{top - 5}">{escape(panel.title)}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:,.0f}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _PANEL}" text-anchor="end">0</text>',
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="1.3"/>',
    ]


def _lines(text: str) -> list[str]:
    """The text in lines that fit."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > _LINE_CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
