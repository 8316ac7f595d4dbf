"""Commands run as root act as the owner of the state directory: that account may be compromised.

Everything in the state and runtime directories can be written by the service's account. Links, FIFOs and
process ids in them would otherwise be followed with the rights of root.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.errors import AgentError, NotPermittedError

Result = TypeVar("Result")


def become_owner(*directories: Path, first: Callable[[], None] | None = None) -> None:
    """Give up root for good, for the owner of the first of these directories that exists.

    `first` is called before, as root. No effect for other users than root, for directories of root, and
    without any directory.
    """
    owner = _owner_of(directories)
    if owner is None:
        return
    if first is not None:
        first()
    uid, gid = owner
    os.setgroups(_groups_of(uid, gid))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Cannot fail after the calls above; if it did, every file access below would be root's.
    if os.geteuid() == 0 or os.getresuid() != (uid, uid, uid):
        raise NotPermittedError("the process could not give up root", hint=f"run it as the user {uid}")


def call_as_owner(function: Callable[[], Result], *directories: Path) -> Result:
    """Call a function as the owner of the directories, in a child process if that takes a change of user.

    Raises what call_in_child() does; without a child, what the function raises.
    """
    if _owner_of(directories) is None:
        return function()

    def as_owner() -> Result:
        become_owner(*directories)
        return function()

    return call_in_child(as_owner)


def call_in_child(function: Callable[[], Result]) -> Result:
    """Call a function that may give up root, in a child process: this one keeps it.

    The result passes through JSON: the child reads files of an account that may be compromised. Raises an
    AgentError with the text, hint and exit code of the function's. For a process with one thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(function, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    try:
        outcome = json.loads(content)
    except ValueError as error:
        raise AgentError(
            "a child process ended without a result", hint="run the same command again"
        ) from error
    if "error" in outcome:
        failure = AgentError(outcome["error"], hint=outcome["hint"])
        failure.exit_code = outcome["exit_code"]
        raise failure
    result: Result = outcome["result"]
    return result


def _child(function: Callable[[], object], write_end: int) -> None:
    """The body of the child process; does not return."""
    code = 1
    try:
        try:
            outcome: dict[str, object] = {"result": function()}
        except AgentError as error:
            outcome = {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}
        except OSError as error:
            hint = f"ls -ld {Path(error.filename).parent}" if isinstance(error.filename, str) else ""
            outcome = {"error": str(error), "hint": hint, "exit_code": AgentError.exit_code}
        sys.stdout.flush()
        sys.stderr.flush()
        text = json.dumps(outcome)
        with os.fdopen(write_end, "w") as pipe:
            pipe.write(text)
        code = 0
    except Exception:  # noqa: BLE001 - the parent reports that there is no result
        if os.environ.get("BADGE_AGENT_TRACEBACK"):
            traceback.print_exc()
    finally:
        os._exit(code)


def _owner_of(directories: tuple[Path, ...]) -> tuple[int, int] | None:
    """User and group to change to; None if this process stays what it is."""
    if os.geteuid() != 0:
        return None
    for directory in directories:
        try:
            stat = directory.stat()
        except OSError:
            continue
        return (stat.st_uid, stat.st_gid) if stat.st_uid != 0 else None
    return None


def _groups_of(uid: int, gid: int) -> list[int]:
    """The account's groups, such as dialout for serial ports; the directory's group without an account."""
    import pwd  # noqa: PLC0415 - not on a machine without root, on which `send-sample` runs, too

    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
