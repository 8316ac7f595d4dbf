"""The context of the service, as read from its unit file and its drop-ins."""

from __future__ import annotations

import pytest

from agent.cli.check import in_service
from agent.cli.check.in_service import line_of, parse_line, parse_unit
from agent.cli.check.runner import Found
from agent.cli.console import Finding
from agent.errors import AgentError
from agent.service import systemctl
from tests.support.cli_rig import Check
from tests.support.paths import ROOT

UNIT = (ROOT / "systemd/badge-agent.service").read_text()


def test_the_context_is_the_user_the_sandbox_and_the_credentials() -> None:
    service = parse_unit(UNIT)

    assert service is not None
    assert (service.program, service.user) == ("/usr/bin/badge-agent", "badge-agent")
    wanted = {
        "DeviceAllow=char-188 rw",
        "ProtectSystem=strict",
        "LoadCredential=private_key:badge-agent.private_key",
    }
    assert wanted <= set(service.properties)
    words = ("Exec", "Restart", "Type=", "Watchdog", "Timeout", "FileDescriptorStore")
    assert not [line for line in service.properties if line.startswith(words)]


def test_a_drop_in_counts_as_in_the_unit() -> None:
    drop_in = "\n# /etc/systemd/system/badge-agent.service.d/a.conf\n[Service]\nUser=door\nExecStart=\n"
    drop_in += "ExecStart=-/opt/agent \\\n  run\nEnvironment=A=B\n[Unit]\nAfter=x\n"

    service = parse_unit(UNIT + drop_in)

    assert service is not None
    assert (service.program, service.user) == ("/opt/agent", "door")
    assert service.properties[-1] == "Environment=A=B"


def test_without_a_program_there_is_no_service() -> None:
    assert parse_unit("") is None


def test_a_result_passes_from_one_process_to_the_other_unchanged() -> None:
    found = Found(Finding("reader A", "failed", "not there", "plug it in\nagain"), 1)

    assert parse_line(line_of(found) + "\n") == found


def test_a_line_that_is_no_result_is_an_error_of_the_context() -> None:
    for line in ("Traceback (most recent call last):\n", "{}\n", "1\n"):
        with pytest.raises(AgentError, match="printed no result"):
            parse_line(line)


def test_a_configuration_that_is_not_the_services_is_checked_here_and_check_says_so(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemctl, "is_installed", lambda: True)
    monkeypatch.setattr(in_service, "run", None)  # must not be called

    checked = check("--offline")

    assert checked.named("context")["text"].endswith(", without the sandbox of a service")
