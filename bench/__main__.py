"""`make bench`: run every benchmark, or those named, and print each figure next to its target."""

from __future__ import annotations

import importlib
import sys

from agent.cli.console import table

BENCHMARKS = (
    *("start", "latency", "decode", "lines", "keep", "drain"),
    *("generation", "recovery", "floods", "views", "osdp", "fleet", "idle"),
)


def main() -> int:
    """Exit code: 0 if every figure meets its target, 1 if not, 2 for an unknown benchmark."""
    chosen = sys.argv[1:] or BENCHMARKS
    unknown = set(chosen) - set(BENCHMARKS)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
        return 2
    missed = 0
    for name in chosen:
        module = importlib.import_module(f"bench.{name}")
        print(f"{name}: {(module.__doc__ or name).splitlines()[0]}", flush=True)
        figures = module.run()
        table(
            ("figure", "measured", "target", ""),
            [(f.name, f.value, f.target, "" if f.holds else "MISSED") for f in figures],
        )
        print(flush=True)
        missed += sum(not figure.holds for figure in figures)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
