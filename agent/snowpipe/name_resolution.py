"""Host names to addresses, within a time limit that getaddrinfo() does not have."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

Address = tuple[int, int, int, tuple[object, ...]]  # family, type, protocol, address of the family


@dataclass(slots=True)
class _Lookup:
    """One call of getaddrinfo(), in a thread of its own: it cannot be ended from outside."""

    done: threading.Event = field(default_factory=threading.Event)
    addresses: list[Address] = field(default_factory=list)
    failure: OSError | UnicodeError | None = None

    def run(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.addresses = [(family, kind, protocol, target) for family, kind, protocol, _, target in found]
        except (OSError, UnicodeError) as error:
            self.failure = error
        finally:
            self.done.set()


class Resolver:
    """Finds the addresses of names. Not thread-safe.

    A lookup that takes longer than its caller waits continues, and the next call for the same name waits
    for it: so a name server that does not answer holds one thread per name. If it has failed meanwhile, the
    next call starts another one.
    """

    def __init__(self) -> None:
        self._unfinished: dict[tuple[str, int], _Lookup] = {}

    def lookup(self, host: str, port: int, timeout_s: float) -> list[Address]:
        """The addresses of a host.

        Raises TimeoutError, another OSError as getaddrinfo() does, and UnicodeError for a name that IDNA
        cannot encode.
        """
        lookup = self._unfinished.pop((host, port), None)
        if lookup is None or lookup.failure is not None:
            lookup = _Lookup()
            threading.Thread(target=lookup.run, args=(host, port), name="resolver", daemon=True).start()
        if not lookup.done.wait(timeout_s):
            self._unfinished[host, port] = lookup
            raise TimeoutError("the name server does not answer")
        if lookup.failure is not None:
            raise lookup.failure
        return lookup.addresses
