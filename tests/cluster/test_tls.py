"""A Ray cluster whose processes speak TLS, and that asks for the token in a variable, as KubeRay sets it up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from tests.certificates import CertificateFiles, make_certificate
from tests.cluster.commands import run_commands, run_program
from tests.cluster.heads import Head, environment_at, head_node

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

MARK = "tls-test"
TOKEN = {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
GENERATE = ("generate", "Hello", "--engine", "simulated", "--max-new-tokens", "2", "--address")
SCRIPT = """
import sys
import ray
from actors import Pool
from cluster.dashboard import Dashboard, dashboard_url

with Pool.start(engine="simulated", cpus_per_worker=0.1, address=sys.argv[1]) as pool:
    text = ray.get(pool.generate.remote("Hello", max_new_tokens=3, temperature=0.0)).text
    assert text == "".join(delta.text for delta in pool.stream("Hello", max_new_tokens=3, temperature=0.0))
print(Dashboard(dashboard_url("auto")).applications())
"""


@dataclass(frozen=True)
class Secured:
    head: Head
    files: CertificateFiles

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        return environment_at(self.head.home, MARK) | TOKEN | {"RAY_ADDRESS": self.head.address} | variables


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    addresses = {"127.0.0.1", get_node_ip_address()}  # type: ignore[no-untyped-call]
    files = make_certificate(tmp_path_factory.mktemp("certificates"), addresses)
    variables = {**files.of_ray, **TOKEN, "RAY_AUTH_MODE": "token"}
    with head_node(MARK, Path(f"/tmp/tls-{os.getpid()}"), token=False, variables=variables) as head:
        yield Secured(head, files)


def test_a_script_with_the_certificate_generates(secured: Secured) -> None:
    environment = secured.environment(secured.files.of_ray)
    assert run_program(SCRIPT, secured.head.address, environment=environment).splitlines()[-1] == "{}"


def test_one_without_or_with_another_is_told_so_in_a_sentence(secured: Secured, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other")
    for variables, words in (
        ({}, "it speaks TLS, and this process does not: set RAY_USE_TLS=1, and RAY_TLS_SERVER_CERT"),
        (other.of_ray, "does not take this process's certificate, or its own is not for 127.0.0.1"),
    ):
        (done,) = run_commands([[*GENERATE, secured.head.address]], secured.environment(variables))
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith("Error: ")
        assert words in done.err
        assert len(done.err.splitlines()) == 1
