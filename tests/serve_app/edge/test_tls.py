"""The front's own listener with TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from actors.errors import ConfigurationError
from serve_app.config import ListenConfig, serve_config
from tests.certificates import CertificateFiles, make_certificate
from tests.serve_app.edge.listening import DEADLINE_S, listening

REQUEST = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificate(tmp_path_factory.mktemp("certificates"))


async def test_who_knows_the_authority_is_answered_and_plain_http_is_not(files: CertificateFiles) -> None:
    async with listening(tls=files.of_listener) as listener:
        trusting = ssl.create_default_context(cafile=files.authority)
        async with httpx.AsyncClient(verify=trusting) as http:
            assert (await http.get(f"https://127.0.0.1:{listener.port}/")).status_code == 200
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await http.get(f"https://127.0.0.1:{listener.port}/")
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"http://127.0.0.1:{listener.port}/")


async def test_one_that_ends_answers_who_is_waiting_and_waits_for_nobody_who_does_not_speak_tls(
    files: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.edge.listener.LINGER_S", 0.5)
    context = ssl.create_default_context(cafile=files.authority)

    def ask(waiting: socket.socket) -> int:
        with context.wrap_socket(waiting, server_hostname="localhost") as connection:
            connection.sendall(REQUEST)
            response = HTTPResponse(connection)
            response.begin()
            return response.status

    async with asyncio.timeout(DEADLINE_S):
        async with listening(tls=files.of_listener) as listener:
            address = ("127.0.0.1", listener.port)
            with socket.create_connection(address, DEADLINE_S) as silent:
                waiting = socket.create_connection(address, DEADLINE_S)  # in the kernel: nothing of ours has run since
                answered = asyncio.create_task(asyncio.to_thread(ask, waiting))
                await listener._accept_no_more()
                assert await answered == 200
                assert silent.recv(1) == b""


def with_passphrase(key: Path) -> Path:
    """For which OpenSSL would ask at the terminal."""
    locked = key.with_name("locked.pem")
    made = load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return locked


def test_files_that_do_not_do_are_told(files: CertificateFiles, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.touch()
    wrong = [
        ({"tls_certificate": tmp_path / "none.pem", "tls_key": files.key}, "none.pem': No such file"),
        ({"tls_certificate": files.certificate, "tls_key": tmp_path / "none.pem"}, "none.pem': No such file"),
        ({"tls_certificate": files.certificate, "tls_key": other.key}, "key values mismatch"),
        ({"tls_certificate": empty, "tls_key": files.key}, "cannot be used: "),
        ({"tls_certificate": files.certificate, "tls_key": files.certificate}, "cannot be used: "),
        ({"tls_certificate": files.certificate, "tls_key": with_passphrase(files.key)}, "cannot be used: "),
    ]
    for settings, words in wrong:
        with pytest.raises(ConfigurationError, match=words) as caught:
            ListenConfig(**settings).require_tls_files()
        assert "\n" not in caught.value.message
    ListenConfig(**files.of_listener).require_tls_files()
    ListenConfig().require_tls_files()


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigurationError, match="`tls_certificate` and `tls_key` go together"):
        serve_config(listen={"tls_certificate": "/a.pem"}, fronts={"max_replicas": 1})
