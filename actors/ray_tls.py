"""TLS between the processes of a Ray cluster, which the environment of each of them switches on."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc

from actors.certificates import authority_problem, pair_problem
from actors.errors import ConfigurationError

CERTIFICATE, KEY, AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"
FILES = f"{CERTIFICATE}, {KEY} and {AUTHORITY}"


def tls_wanted() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def open_channel(host_and_port: str) -> Any:
    """A gRPC channel as Ray's processes open theirs.

    :raises ConfigurationError: TLS is wanted, and a file for it is missing or wrong.
    """
    if not tls_wanted():
        return grpc.insecure_channel(host_and_port)
    certificate, key, authority = _files()
    credentials = grpc.ssl_channel_credentials(authority.read_bytes(), key.read_bytes(), certificate.read_bytes())
    return grpc.secure_channel(host_and_port, credentials)


def _files() -> tuple[Path, Path, Path]:
    """Certificate, key and authority, which fit together.

    :raises ConfigurationError: saying which do not.
    """
    missing = [name for name in (CERTIFICATE, KEY, AUTHORITY) if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"RAY_USE_TLS is set, so {', '.join(missing)} must name files in PEM format.")
    certificate, key, authority = (Path(os.environ[name]) for name in (CERTIFICATE, KEY, AUTHORITY))
    if problem := pair_problem(certificate, key):
        raise ConfigurationError(f"RAY_USE_TLS is set, and {CERTIFICATE} with {KEY} cannot be used: {problem}.")
    if problem := authority_problem(authority):
        raise ConfigurationError(f"RAY_USE_TLS is set, and {AUTHORITY} cannot be used: {problem}.")
    return certificate, key, authority


def speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    """Whether who listens there wants TLS, whatever its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout_s) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False
