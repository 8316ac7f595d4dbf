"""Which hosts are this machine: to them alone tokens may go in the clear."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """True for an address of the loopback interface and for `localhost`; no name is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
