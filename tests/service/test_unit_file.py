from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import SYSTEMD_ANALYZE, needs
from tests.support.paths import ROOT

MOST_EXPOSURE = 1.2  # out of 10
UNIT = ROOT / "systemd/badge-agent.service"
# Serial drivers and their major numbers: admin-guide/devices.txt of the kernel; 266 from the header of
# MaxLinear's xr_usb_serial_common.
MAJORS = {"ttyS": 4, "ttyACM": 166, "ttyUSB": 188, "ttyAMA": 204, "ttySC of SC26xx": 204, "ttyXRUSB": 266}
# These get a number when the driver is loaded; the name has an effect only if that was before.
DYNAMIC = ("ttySC", "ttyMXUSB")


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", [UNIT, UNIT.with_name("badge-agent-key.service")], ids=["agent", "key"])
def test_systemd_sees_in_the_unit_file_alone_how_little_the_service_may_do(unit: Path) -> None:
    needs(SYSTEMD_ANALYZE)

    analysis = subprocess.run(
        [
            *("systemd-analyze", "security", "--no-pager", "--offline=true"),
            *(f"--threshold={MOST_EXPOSURE * 10:.0f}", unit),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert analysis.returncode == 0, analysis.stdout + analysis.stderr


@pytest.mark.parametrize("driver", MAJORS)
def test_a_reader_may_be_opened_whose_driver_is_loaded_after_the_start(driver: str) -> None:
    assert f"char-{MAJORS[driver]} rw" in settings("DeviceAllow")


def test_a_driver_without_a_fixed_number_is_named_and_where_possible_loaded_before() -> None:
    assert [f"char-{name} rw" in settings("DeviceAllow") for name in DYNAMIC] == [True, True]
    assert "modprobe@sc16is7xx.service" in settings("Wants")
    assert "modprobe@sc16is7xx.service" in settings("After")


def test_no_other_device_is_allowed() -> None:
    allowed = {f"char-{number} rw" for number in MAJORS.values()} | {f"char-{name} rw" for name in DYNAMIC}

    assert set(settings("DeviceAllow")) == allowed
    assert settings("DevicePolicy") == ["closed"]


def test_a_credential_that_cannot_be_decrypted_cannot_fail_the_service() -> None:
    assert settings("LoadCredentialEncrypted") == []
    assert "private_key_encrypted:none" in settings("SetCredential")
