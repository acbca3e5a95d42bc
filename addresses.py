"""Whose an address is: what limits and locks count as one caller."""

from __future__ import annotations

import ipaddress


def caller_of(address: str) -> str:
    """An IPv4 address as it is; of IPv6 its /64, which one caller owns whole."""
    if ":" not in address:
        return address
    try:
        known = ipaddress.IPv6Address(address.split("%")[0])
    except ValueError:
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, 64), strict=False))
