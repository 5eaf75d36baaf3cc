"""`exlpool deploy`: every key is checked, and the command ends when the applications run, or says why they do not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from ray.serve.scripts import build

import cluster
from cluster.dashboard import dashboard_url
from tests.cluster.conftest import Exlpool
from tests.cluster.heads import Head, head_node, live_at
from tests.serve_app.running import ask, free_port

EXAMPLE = Path(cluster.__file__).parent / "serve.yaml"
CHANGE_S = 60.0


def document(port: int = 8000, *, user_config: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    args = {"name": "sim", "engine": "simulated", "cpus_per_worker": 0.1, "fronts": {"max_replicas": 1}} | args
    application: dict[str, Any] = {"name": "exlpool", "import_path": "serve_app:build_app", "args": args}
    if user_config is not None:
        application["deployments"] = [{"name": "HttpFront", "user_config": user_config}]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"log_level": "ERROR"},
        "applications": [application],
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_example_is_right(exlpool: Exlpool) -> None:
    assert exlpool("deploy", EXAMPLE, "--check").status == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("applications:", "aplications:", "'applications'"),
        ("user_config:", "user_confi:", "'user_config'"),
        ("http_options:", "http_option:", "'http_options'"),
        ("  port: 8000", "  porrt: 8000", "'port'"),
        ("workers: 2", "workerz: 2", "workerz"),
        ("max_body_bytes: 16777216", "max_body: 1", "max_body"),
        ("access_log: true", "access_log: maybe", "access_log"),
        ("host: 127.0.0.1", "host: 0.0.0.0", "Without keys"),
        ("max_replicas: 4", "max_replicas: 0", "max_replicas"),
        ("applications:", "[", "not valid YAML"),
    ],
)
def test_a_slip_of_the_pen_is_told(exlpool: Exlpool, tmp_path: Path, old: str, new: str, told: str) -> None:
    text = EXAMPLE.read_text()
    assert text.count(old) == 1
    file = tmp_path / "serve.yaml"
    file.write_text(text.replace(old, new))
    done = exlpool("deploy", file, "--check")
    assert done.status == 2
    assert told in done.err


@pytest.fixture(scope="module")
def started_head() -> Iterator[Head]:
    with head_node("deploy-test", Path(f"/tmp/ray-{os.getpid()}")) as head:
        yield head


@pytest.fixture
def ray_head(started_head: Head, monkeypatch: pytest.MonkeyPatch) -> Head:
    live_at(started_head.home, monkeypatch)
    return started_head


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_it_waits_until_it_runs_and_tells_why_it_does_not(
    ray_head: Head, exlpool: Exlpool, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def deploy(**settings: Any) -> Any:
        file = write(tmp_path / "serve.yaml", document(port, **settings))
        return exlpool("deploy", file, "--address", ray_head.dashboard, "--timeout-s", "120")

    done = deploy()
    assert done.status == 0, done.err
    assert "RUNNING" in done.err
    assert httpx.post(f"{url}/v1/completions", json=ask(3, stream=False)).status_code == 200

    fronts = _front_pids(ray_head)
    done = deploy(user_config={"max_body_bytes": 1024})
    assert done.status == 0, done.err
    eventually(lambda: _status_of_large_body(url) == 413, timeout_s=CHANGE_S)
    done = deploy()
    assert done.status == 0, done.err
    eventually(lambda: _status_of_large_body(url) != 413, timeout_s=CHANGE_S)
    done = deploy(user_config={"keys_file": "/no/such/keys.yaml"})
    assert done.status == 2
    assert "exlpool: the `user_config` is not in force" in done.err
    assert "/no/such/keys.yaml" in done.err
    eventually(lambda: "/no/such/keys.yaml" in _ready(url).get("refused_settings", ""), timeout_s=CHANGE_S)
    assert httpx.post(f"{url}/v1/completions", json=ask(3, stream=False)).status_code == 200
    assert _front_pids(ray_head) == fronts, "a live setting needs no restart, and a wrong one gets none"

    done = deploy(simulated={"fail_load": True})
    assert done.status == 2
    assert "exlpool: ModelError" in done.err
    assert httpx.post(f"{url}/v1/completions", json=ask(3, stream=False)).status_code == 200, "the old version serves"

    other = document(port)
    other["applications"][0]["name"] = "other"
    done = exlpool("deploy", write(tmp_path / "other.yaml", other), "--address", ray_head.dashboard)
    assert done.status == 2
    assert "exlpool would end" in done.err
    assert httpx.post(f"{url}/v1/completions", json=ask(3, stream=False)).status_code == 200


@pytest.mark.ray
def test_the_cluster_of_this_machine_is_found(ray_head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)
    assert dashboard_url("auto") == ray_head.dashboard
    assert dashboard_url("http://127.0.0.1:1") == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("settings", "told"), [("", "Without keys"), ("remote_without_keys=True", ""), ("keys_file='/k.yaml'", "")]
)
def test_what_serve_builds_is_checked(
    exlpool: Exlpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, told: str
) -> None:
    """`serve build` opens the server to every machine."""
    (tmp_path / "my_app.py").write_text(
        "from serve_app import build_app\nfrom serve_app.config import serve_config\n"
        f"app = build_app(serve_config(engine='simulated', {settings}))\n"
    )
    monkeypatch.delitem(sys.modules, "my_app", raising=False)
    built = tmp_path / "built.yaml"
    outcome = CliRunner().invoke(build, ["my_app:app", "--app-dir", str(tmp_path), "-o", str(built)])
    assert built.exists(), outcome.output
    done = exlpool("deploy", built, "--check")
    assert (done.status == 2) == bool(told), done.err
    assert told in done.err


def _front_pids(head: Head) -> set[int]:
    return {one.pid for one in head.process.children(recursive=True) if "HttpFront" in " ".join(one.cmdline())}


def _ready(url: str) -> Any:
    return httpx.get(f"{url}/ready").json()


def _status_of_large_body(url: str) -> int:
    return httpx.post(f"{url}/v1/completions", content=b"x" * 2000).status_code
