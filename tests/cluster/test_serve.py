"""`exlpool serve` as a real process: it serves, it refuses what is unsafe, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from actors.builtin_model import builtin_model_path
from tests.certificates import make_certificate
from tests.cluster.conftest import Exlpool
from tests.processes import marked, marked_environment
from tests.serve_app.running import ask, free_port

STOP_WITHIN_S = 10.0


@dataclass
class Command:
    """A running `exlpool serve`, and what it has said so far."""

    process: subprocess.Popen[str]
    url: str
    errors: list[str] = field(default_factory=list)

    def wait_for_url(self) -> None:
        """The URL is printed when the server is ready."""
        threading.Thread(target=self._read_errors, daemon=True).start()
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == self.url, "".join(self.errors)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def end(self, number: signal.Signals) -> int:
        """As a terminal does: to the whole group."""
        os.killpg(self.process.pid, number)
        return self.process.wait(STOP_WITHIN_S)


@contextlib.contextmanager
def serving(mark: str, *arguments: str) -> Iterator[Command]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--port", str(port), *arguments],
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        scheme = "https" if "--tls-key" in arguments else "http"
        command = Command(process, f"{scheme}://127.0.0.1:{port}")
        command.wait_for_url()
        yield command
    finally:
        process.kill()


@pytest.mark.ray
def test_it_serves_until_ctrl_c_and_leaves_nothing(mark: str, eventually: Callable[..., None], tmp_path: Path) -> None:
    settings = tmp_path / "multi.yaml"
    settings.write_text(
        "models:\n- {name: sim, engine: simulated, workers: 2, wait_for: all, cpus_per_worker: 0.5}\n"
        "- {name: other, engine: simulated, cpus_per_worker: 0.1}\n"
    )
    with serving(mark, "--config", str(settings)) as command:
        assert httpx.get(f"{command.url}/ready").status_code == 200
        answer = httpx.post(f"{command.url}/v1/completions", json=ask(3, stream=False))
        assert answer.json()["usage"]["completion_tokens"] == 3
        assert listening(mark, httpx.URL(command.url).port) == {"127.0.0.1"}
        with httpx.stream("POST", f"{command.url}/v1/completions", json=ask(4000)) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert command.end(signal.SIGINT) == 130
            with contextlib.suppress(httpx.HTTPError):
                assert list(lines)[-1] != "data: [DONE]", "a stream that was cut off never looks finished"
        eventually(lambda: not marked(mark), timeout_s=STOP_WITHIN_S)
    told = "".join(command.errors)
    assert f"Serving sim and other at {command.url}/v1" in told
    assert "curl -N" in told
    assert "Traceback" not in told
    assert told.endswith("\nInterrupted.\n")


def listening(mark: str, port: int | None) -> set[str]:
    """The addresses on which the marked processes listen at a port."""
    found = set()
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            found |= {
                one.laddr.ip for one in process.net_connections("tcp") if one.laddr.port == port and not one.raddr
            }
    return found


@pytest.mark.ray
def test_with_a_key_and_tls_only_who_shows_it_is_served(mark: str, tmp_path: Path, exlpool: Exlpool) -> None:
    keys, files = tmp_path / "keys.yaml", make_certificate(tmp_path)
    key = exlpool("keys", "new", "alice", "--file", keys).out.strip()
    arguments = ["--engine", "simulated", "--name", "sim", "--keys-file", str(keys)]
    arguments += ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    trusting = ssl.create_default_context(cafile=files.authority)
    with serving(mark, *arguments) as command, httpx.Client(verify=trusting) as http:
        body = ask(3, stream=False)
        url = f"{command.url}/v1/completions"
        assert http.post(url, json=body).status_code == 401
        assert http.post(url, json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert command.end(signal.SIGTERM) == 143
    assert "".join(command.errors).endswith("\nTerminated.\n")
    assert key not in "".join(command.errors)


def test_a_port_that_is_taken_is_told_at_once(exlpool: Exlpool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = exlpool("serve", "--port", taken.getsockname()[1], "--engine", "simulated")
    assert done.status == 2
    assert "in use" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "Without keys"),
        (["--host", "::"], "Without keys"),
        (["--host", "somewhere"], "IP address"),
        (["--keys-file", "/nowhere/keys.yaml"], "/nowhere/keys.yaml"),
        (["--model", "/nowhere/model"], "/nowhere/model"),
        (["--config", "/nowhere/serve.yaml"], "/nowhere/serve.yaml"),
        (["--tls-certificate", "/nowhere/c.pem"], "`tls_certificate` and `tls_key` go together"),
        (["--tls-certificate", "/nowhere/c.pem", "--tls-key", "/nowhere/k.pem"], "'/nowhere/c.pem': No such file"),
        (["--cors-origin", "https://page.example/"], "did you mean 'https://page.example'?"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(exlpool: Exlpool, arguments: list[str], told: str) -> None:
    done = exlpool("serve", "--port", free_port(), *arguments)
    assert done.status == 2
    assert told in " ".join(done.err.split())


@pytest.fixture
def multi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with two models; nothing may start."""

    def start(*_: object) -> bool:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("cluster.server.ensure_ray", start)
    file = tmp_path / "multi.yaml"
    file.write_text(
        "models: [{name: a, engine: simulated}, {name: b, engine: simulated}]\n"
        "listen: {host: 192.0.2.1}\nfronts: {max_replicas: 1}\n"
    )
    return file


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--workers", "2"], "--workers does not go with"),
        (["--name", "c", "--cache-tokens", "512"], "--cache-tokens does not go with"),
        (["--name", "c"], "--name does not go with"),
        (["--model", "/nowhere"], "--model does not go with"),
    ],
)
def test_options_of_one_model_do_not_go_with_a_file_of_several(
    exlpool: Exlpool, multi: Path, options: list[str], named: str
) -> None:
    done = exlpool("serve", "--config", multi, *options)
    assert (done.status, done.out) == (2, "")
    assert named in done.err
    assert "multi.yaml" in done.err


def test_a_file_may_say_where_to_listen(exlpool: Exlpool, multi: Path) -> None:
    assert "not on 192.0.2.1" in exlpool("serve", "--config", multi).err
    assert "not on 192.0.2.2" in exlpool("serve", "--config", multi, "--host", "192.0.2.2").err


def test_a_model_that_no_front_can_read_is_not_served(exlpool: Exlpool, multi: Path, tmp_path: Path) -> None:
    """Its workers would start, and every request for it would be refused."""
    model = tmp_path / "broken"
    shutil.copytree(builtin_model_path(), model)
    (model / "chat_template.jinja").write_text("{% for %}")
    multi.write_text(f"models: [{{name: a, engine: simulated}}, {{name: b, engine: simulated, model: {model}}}]\n")
    done = exlpool("serve", "--config", multi, "--port", free_port())
    assert (done.status, done.out) == (2, "")
    assert "b cannot be served: " in done.err
