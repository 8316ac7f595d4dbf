"""Commands of root on directories that a hostile service account prepared: they act as that account."""

from __future__ import annotations

import os
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.cli import check, key, main, outbox, replay, report, sql, status  # noqa: F401 - imported before root is given up
from agent.cli.check import local, snowflake  # noqa: F401 - as above
from agent.errors import AgentError, NotPermittedError
from agent.owner import call_as_owner
from tests.support.needs import ROOT_USER, needs
from tests.support.outbox_rig import commit, keep, opened
from tests.support.service_account import LONGEST_S, UID, ServiceAccount

_SECRET = "root's own file\n"


@pytest.fixture(autouse=True)
def _root_to_give_up() -> None:
    needs(ROOT_USER)


@pytest.fixture
def account(rsa_key_file: Path) -> Iterator[ServiceAccount]:
    """A stopped agent's directories, with rows that are delivered, and some of them held."""
    with ServiceAccount(rsa_key_file) as account:
        fill(account)
        yield account


def fill(account: ServiceAccount) -> None:
    def make() -> int:
        with closing(opened(account.state_dir)) as made:
            keep(made, 5)
            commit(made, 4, rejected=(1, 2))
        return 0

    ended = account.as_service(make)
    assert ended.code == 0, ended.output


def link(path: Path, account: ServiceAccount) -> None:
    path.symlink_to(account.outside / "file")


def fifo(path: Path, _account: ServiceAccount) -> None:
    os.mkfifo(path)


def directory(path: Path, _account: ServiceAccount) -> None:
    path.mkdir()


def device(path: Path, _account: ServiceAccount) -> None:
    # A terminal waits for its carrier when it is opened, and reading from it has no end.
    path.symlink_to("/dev/ptmx")


def node(path: Path, _account: ServiceAccount) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: reading has no end


def a_socket(path: Path, _account: ServiceAccount) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


_STATUS, _CHECK = ("status", "--json"), ("check", "--offline", "--json")
_OF_THE_OUTBOX = (
    *(_STATUS, _CHECK, ("outbox", "list"), ("outbox", "export"), ("outbox", "release", "--all")),
    ("replay", "--from", "1", "--dry-run"),
)
# What reads each file first; the others have the same way to it.
_COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "state/outbox.lock": (_STATUS, _CHECK),
    "state/reserve": (_CHECK,),
    "state/outbox.db": _OF_THE_OUTBOX,
    "state/outbox.db-wal": (_STATUS,),
    "state/outbox.db-shm": (_STATUS,),
    "state/outbox.db-journal": (_STATUS, ("outbox", "release", "--all")),
    "state/outbox.db.corrupt-1": (_STATUS,),
    "run/status.json": (_STATUS, _CHECK),
    "run/private_key": (("key", "fingerprint"),),
}


@pytest.mark.parametrize("plant", [link, fifo, directory, device, node, a_socket])
def test_no_file_of_the_account_leads_a_command_of_root_outside(
    account: ServiceAccount, plant: Callable[[Path, ServiceAccount], None]
) -> None:
    target = account.outside / "file"
    target.write_text(_SECRET)
    before = state_of(account.outside)

    for name, commands in _COMMANDS.items():
        place = account.directory / name
        kept = place.with_name(f"{place.name}.kept")
        if place.exists():
            place.rename(kept)
        plant(place, account)
        os.chown(place, UID, UID, follow_symlinks=False)
        account.configure("" if name == "run/private_key" else f'private_key_file = "{key_of(account)}"')
        for command in commands:
            ended = account.run(*command)

            case = f"{plant.__name__} as {name}, {command}: {ended.code} after {ended.seconds:.1f} s\n"
            assert 0 <= ended.code < 99, case + ended.output
            assert ended.seconds < LONGEST_S, case
            assert "Traceback" not in ended.output, case + ended.output
            assert _SECRET.strip() not in ended.output, case
            assert state_of(account.outside) == before, case
            assert account.foreign_files() == [], case
        remove(place)
        if kept.exists():
            kept.rename(place)


def key_of(account: ServiceAccount) -> Path:
    return account.directory / "rsa_key.p8"


def state_of(place: Path) -> list[tuple[str, bytes, int, int]]:
    return [
        (path.name, path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(place.iterdir())
    ]


def remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["outbox.open.lock", "reserve"])
def test_a_replay_of_root_truncates_nothing_through_a_link(account: ServiceAccount, name: str) -> None:
    target = account.outside / "file"
    target.write_text(_SECRET)
    os.chown(target, UID, UID)  # even a file that the account itself may write
    (account.state_dir / name).unlink(missing_ok=True)
    (account.state_dir / name).symlink_to(target)
    os.chown(account.state_dir / name, UID, UID, follow_symlinks=False)

    ended = account.run("replay", "--from", "1")

    assert ended.code in {69, 74}, ended.output
    assert target.read_text() == _SECRET
    assert account.foreign_files() == []


def test_a_replay_of_root_on_a_damaged_outbox_leaves_no_file_of_root(account: ServiceAccount) -> None:
    database = account.state_dir / "outbox.db"
    content = bytearray(database.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xaa" * 4096
    database.write_bytes(content)

    account.run("replay", "--from", "1")
    ended = account.run("replay", "--from", "1")

    assert "Traceback" not in ended.output
    assert account.foreign_files() == []
    assert account.as_service(lambda: opened_again(account)).code == 0


def opened_again(account: ServiceAccount) -> int:
    opened(account.state_dir).close()
    return 0


def test_an_export_of_root_goes_where_only_root_may_write(account: ServiceAccount) -> None:
    account.outside.chmod(0o700)
    out = account.outside / "rows"

    ended = account.run("outbox", "export", "--out", str(out))

    assert ended.code == 0, ended.output
    assert len(out.read_bytes().splitlines()) == 2
    assert (out.stat().st_uid, out.stat().st_mode & 0o777) == (0, 0o600)


def test_a_report_of_root_follows_no_link_of_the_account(account: ServiceAccount) -> None:
    account.outside.chmod(0o700)
    (account.outside / "file").write_text(_SECRET)
    for place in (account.runtime_dir / "status.json", account.state_dir / "outbox.db-wal"):
        remove(place)
        link(place, account)
        os.chown(place, UID, UID, follow_symlinks=False)
    out = account.outside / "report"

    ended = account.run("report", "--offline", "--out", str(out))

    with tarfile.open(out) as archive:
        files = [file.read().decode() for member in archive if (file := archive.extractfile(member))]
    assert ended.code == 0, ended.output
    assert out.stat().st_uid == 0
    assert account.foreign_files() == []
    assert any(f"{account.state_dir}/outbox.db-wal" in text for text in files)
    assert not [text for text in files if _SECRET.strip() in text]


def test_a_check_names_the_user_that_it_runs_as(account: ServiceAccount) -> None:
    by_root = account.run("check", "--offline")
    by_account = account.as_service(lambda: main(["check", "--offline", "--config", str(account.config)]))

    assert "context: as the owner of the state directory, without" in by_root.output
    assert f"context: as user {UID}, without" in by_account.output  # the account has no name
    assert by_account.seconds < LONGEST_S, by_account.output


def test_a_result_of_a_child_is_data(account: ServiceAccount) -> None:
    def refuse() -> int:
        raise NotPermittedError("not this", hint="that")

    def call() -> int:
        assert call_as_owner(lambda: list(os.getresuid()), account.state_dir) == [UID] * 3
        assert os.getresuid() == (0, 0, 0)
        with pytest.raises(AgentError, match="not this") as caught:
            call_as_owner(refuse, account.state_dir)
        assert (caught.value.hint, caught.value.exit_code) == ("that", 77)
        # A class of its own cannot pass, nor anything else that runs code when it is read.
        with pytest.raises(AgentError, match="without a result"):
            call_as_owner(object, account.state_dir)
        return 0

    ended = account.call(call)

    assert ended.code == 0, ended.output
