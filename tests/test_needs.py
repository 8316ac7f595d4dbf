from __future__ import annotations

import re

import pytest

from tests.support.needs import Need, needs, summary
from tests.support.paths import ROOT

COMPILER = Need("a compiler", lambda: False, "gcc libc6-dev")
LOOP_DEVICE = Need("a loop device", lambda: False)


def reason_without(need: Need) -> str:
    with pytest.raises(pytest.skip.Exception) as skipped:
        needs(need)
    return f"Skipped: {skipped.value.msg}"  # as pytest reports it


def test_what_a_machine_has_skips_nothing() -> None:
    needs(Need("a shell", lambda: True))


def test_a_run_ends_with_what_was_skipped_and_the_packages_that_would_run_it() -> None:
    reasons = [reason_without(COMPILER), reason_without(LOOP_DEVICE), reason_without(COMPILER)]

    assert summary(reasons) == (
        "3 tests were skipped: 2 for want of a compiler, 1 for want of a loop device."
        " To run more of them: sudo apt install gcc libc6-dev"
    )


def test_without_a_package_that_helps_none_is_named() -> None:
    assert summary([reason_without(LOOP_DEVICE)]) == "1 test was skipped: 1 for want of a loop device."


def test_there_is_one_way_to_skip_a_test() -> None:
    others = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"importorskip|skipif|pytest\.skip\(|unittest", path.read_text())
    }

    # The tests of a booted system go on where the one before them ended.
    in_system = {"tests/support/transcript.py", "tests/system/test_door.py"}
    assert others - {"tests/test_needs.py"} == {"tests/support/needs.py", *in_system}
