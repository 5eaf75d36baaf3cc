"""Certificates for TLS, as files in PEM format: whether they can be used, told before anybody connects."""

from __future__ import annotations

import ssl
from pathlib import Path

from actors.errors import first_line


def pair_problem(certificate: Path, key: Path) -> str | None:
    """Why a certificate and its private key cannot be used, in a few words; None: they can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks at the terminal
    except OSError as error:
        return _reason(error, certificate, key)
    return None


def authority_problem(authority: Path) -> str | None:
    """Why the certificate of an authority cannot be used, in a few words; None: it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authority)
    except OSError as error:
        return _reason(error, authority)
    return None


def _reason(error: OSError, *files: Path) -> str:
    """OpenSSL does not say which file it is, and gives a place in its own source as an explanation."""
    for file in files:
        try:
            file.open("rb").close()
        except OSError as unreadable:
            return f"{str(file)!r}: {unreadable.strerror}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM format, or with a passphrase").lower().replace("_", " ")
    return error.strerror or first_line(error)
