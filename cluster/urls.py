"""Where a program on a machine that listens finds it."""

from __future__ import annotations

_ALL_ADDRESSES = frozenset({"0.0.0.0", "::"})


def local_url(host: str, port: int, *, tls: bool = False) -> str:
    """The URL, without a path, of who listens at a host and a port. Who listens on all addresses, of IPv6 too, is found
    at the one that every machine has."""
    host = "127.0.0.1" if host in _ALL_ADDRESSES else host
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
