"""A view of a door as one HTML document without script, image or address of anything else."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from agent.cli.console import DoorView, Finding, Grid

REFRESH_S = 2

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #1a7f37; --warning: #9a6700; --failed: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fb950; --warning: #d29922; --failed: #f85149; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p { margin: 0 0 1rem; opacity: .7; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
small { display: block; opacity: .8; }
.ok, .open, .in-Snowflake { color: var(--ok); }
.warning, .on-disk { color: var(--warning); }
.failed, .lost, .set-aside { color: var(--failed); font-weight: 600; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing is loaded, run, sent or framed: only this style applies.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_MARKED = frozenset({"open", "lost", "in Snowflake", "on disk", "set aside"})


def document(view: DoorView) -> str:
    """The document, which the browser loads again every REFRESH_S seconds."""
    findings = "".join(_finding(finding) for finding in view.findings)
    grids = "".join(_grid(grid) for grid in view.grids)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        f"<title>{escape(view.title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(view.title)}</h1><p>{escape(view.help)}</p>"
        f"<div><table>{findings}</table></div>{grids}</body></html>\n"
    )


def _finding(finding: Finding) -> str:
    following = f"<small>next: {escape(finding.next)}</small>" if finding.next else ""
    cells = f'<td class="{finding.state}">{finding.state}</td><td>{escape(finding.name)}</td>'
    return f"<tr>{cells}<td>{escape(finding.text)}{following}</td></tr>"


def _grid(grid: Grid) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in grid.headers)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in grid.rows)
    return f"<h2>{escape(grid.title)}</h2><div><table><tr>{head}</tr>{rows}</table></div>"


def _cell(text: str) -> str:
    mark = f' class="{text.replace(" ", "-")}"' if text in _MARKED else ""
    return f"<td{mark}>{escape(text)}</td>"
