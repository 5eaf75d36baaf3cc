"""Certificates that a test makes: an authority, and one that it has signed, as files in PEM format."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class CertificateFiles:
    authority: Path
    certificate: Path
    key: Path

    @property
    def of_ray(self) -> dict[str, str]:
        """The variables with which Ray's processes use them."""
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(self.certificate),
            "RAY_TLS_SERVER_KEY": str(self.key),
            "RAY_TLS_CA_CERT": str(self.authority),
        }

    @property
    def of_listener(self) -> dict[str, Path]:
        return {"tls_certificate": self.certificate, "tls_key": self.key}


def make_certificate(folder: Path, addresses: Iterable[str] = ("127.0.0.1",)) -> CertificateFiles:
    """For `localhost` and these IP addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    files = CertificateFiles(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ip_address(address)) for address in addresses]
    basic = x509.BasicConstraints(ca=True, path_length=None)
    authority = _unsigned("authority", authority_key).add_extension(basic, critical=True)
    signed = _unsigned("node", key).add_extension(x509.SubjectAlternativeName(names), critical=False)
    files.authority.write_bytes(authority.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.certificate.write_bytes(signed.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def _unsigned(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
