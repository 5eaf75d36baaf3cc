"""TLS with a cluster's control service, as the environment of a process asks for it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from actors.errors import ConfigurationError
from actors.ray_checks import FoundCluster, require_cluster
from actors.ray_control import CLUSTER_ID_CALL
from actors.ray_tls import open_channel
from tests.certificates import CertificateFiles, make_certificate
from tests.listeners import free_port, grpc_server

VARIABLES = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


@pytest.fixture(autouse=True)
def _none_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificate(tmp_path_factory.mktemp("others"))


def use(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Those of a cluster: it wants a certificate of every process."""
    pair = files.key.read_bytes(), files.certificate.read_bytes()
    return grpc.ssl_server_credentials([pair], files.authority.read_bytes(), require_client_auth=True)


def refusal_of(port: int) -> str:
    with pytest.raises(ConfigurationError, match="Cannot connect to a Ray cluster") as caught:
        require_cluster(f"127.0.0.1:{port}")
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_cluster_that_speaks_tls_is_reached_with_its_files_alone(
    files: CertificateFiles, others: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with grpc_server(CLUSTER_ID_CALL, credentials=credentials(files)) as port:
        assert "it speaks TLS, and this process does not: set RAY_USE_TLS=1" in refusal_of(port)
        use(files.of_ray, monkeypatch)
        assert require_cluster(f"127.0.0.1:{port}") == FoundCluster(f"127.0.0.1:{port}", None)
        use(others.of_ray, monkeypatch)
        assert "does not take this process's certificate" in refusal_of(port)
        use(others.of_ray | {"RAY_TLS_CA_CERT": str(files.authority)}, monkeypatch)
        assert "does not take this process's certificate" in refusal_of(port)


def test_one_whose_certificate_is_for_another_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = make_certificate(tmp_path, ["10.0.0.7"])
    use(elsewhere.of_ray, monkeypatch)
    with grpc_server(CLUSTER_ID_CALL, credentials=credentials(elsewhere)) as port:
        assert "or its own is not for 127.0.0.1" in refusal_of(port)


def test_one_that_does_not_is_told(files: CertificateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    use(files.of_ray, monkeypatch)
    with grpc_server(CLUSTER_ID_CALL) as port:
        assert "what listens there does not speak TLS: unset RAY_USE_TLS" in refusal_of(port)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RAY_TLS_CA_CERT": ""}, "so RAY_TLS_CA_CERT must name files"),
        ({"RAY_TLS_CA_CERT": "/nowhere/ca.pem"}, "RAY_TLS_CA_CERT cannot be used: '/nowhere/ca.pem': No such file"),
        ({"RAY_TLS_SERVER_KEY": "/nowhere/key.pem"}, "'/nowhere/key.pem': No such file"),
        ({"RAY_TLS_SERVER_KEY": "{others.key}"}, "cannot be used: key values mismatch"),
        ({"RAY_TLS_CA_CERT": "{others.key}"}, "RAY_TLS_CA_CERT cannot be used: "),
    ],
)
def test_files_that_do_not_do_are_told(
    files: CertificateFiles,
    others: CertificateFiles,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    words: str,
) -> None:
    use(files.of_ray | {name: value.format(others=others) for name, value in changes.items()}, monkeypatch)
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_channel(f"127.0.0.1:{free_port()}")
    assert caught.value.message.startswith("RAY_USE_TLS is set, ")
    assert "\n" not in caught.value.message


def test_without_files_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(ConfigurationError, match="RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY, RAY_TLS_CA_CERT must name"):
        open_channel("127.0.0.1:1")
