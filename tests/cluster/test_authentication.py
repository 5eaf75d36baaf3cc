"""Ray's token authentication as it comes: every command and script gets into a cluster that asks for a token and into
one that does not, and says in one sentence why it does not get in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.commands import RUN_S, run_commands, run_program
from tests.cluster.heads import Head, environment_at, head_node, new_home
from tests.cluster.test_serve_deploy import document, write
from tests.listeners import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

MARK = "authentication-test"
SIMULATED = ("--engine", "simulated")
SHORT = (*SIMULATED, "--max-new-tokens", "2")
SCRIPT = """
import json, sys
import ray
from actors import Pool

told = []
for number, address in enumerate(sys.argv[1:]):
    name = f"visit-{number}"
    with Pool.start(engine="simulated", cpus_per_worker=0.1, name=name, detached=True, address=address):
        pass
    with Pool.connect(name, address=address) as pool:
        text = ray.get(pool.generate.remote("Hello", max_new_tokens=3, temperature=0.0)).text
        told.append(text == "".join(delta.text for delta in pool.stream("Hello", max_new_tokens=3, temperature=0.0)))
print(json.dumps(told))
"""
ANSWERS = """
import json, sys
from actors import ExlpoolError, Pool

told = []
for join in (lambda: Pool.start(engine="simulated", address=sys.argv[1]), lambda: Pool.connect(address=sys.argv[1])):
    try:
        join()
    except ExlpoolError as error:
        told.append(error.message)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def asking() -> Iterator[Head]:
    with head_node(MARK, Path(f"/tmp/asks-{os.getpid()}")) as head:
        yield head


@pytest.fixture(scope="module")
def open_head() -> Iterator[Head]:
    with head_node(MARK, Path(f"/tmp/open-{os.getpid()}"), token=False) as head:
        yield head


@contextlib.contextmanager
def serving(head: Head, port: int) -> Iterator[None]:
    """`exlpool serve` on the cluster, until Ctrl-C."""
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--address", head.address]
    process = subprocess.Popen(
        [*command, *SIMULATED, "--port", str(port)],
        env=environment_at(head.home, MARK),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}\n", process.communicate(timeout=RUN_S)[1]
        yield
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=RUN_S)[1].endswith("Interrupted.\n")
    finally:
        process.kill()


def test_every_command_shows_the_token_that_is_there(asking: Head, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\n")
    port, at = free_port(), ("--address", asking.address)
    other = document(free_port())
    other["applications"][0]["name"] = "other"
    file = write(tmp_path / "serve.yaml", other)
    with serving(asking, port):
        assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        done = run_commands(
            [
                ["generate", "Hello", *SHORT, *at],
                ["run", prompts, *SHORT, *at],
                ["scale", 2, *at],
                ["drain", "worker-0", *at],
                ["deploy", file, "--address", "auto"],
            ],
            environment_at(asking.home, MARK) | {"RAY_ADDRESS": asking.address},
        )
    assert [one.status for one in done[:4]] == [0, 0, 0, 0], done
    assert done[2].out == "worker-0  up\nworker-1  up\n"
    assert "exlpool would end" in done[4].err, "so the dashboard has answered"


def test_scripts_go_from_one_cluster_to_another(asking: Head, open_head: Head) -> None:
    """With a token that the second does not ask for, and would not understand."""
    addresses = [asking.address, open_head.address, asking.address]
    assert json.loads(run_program(SCRIPT, *addresses, environment=environment_at(asking.home, MARK))) == [True] * 3


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "it wants a token, and there is none here: put the output of `ray get-auth-token`"),
        ({"RAY_AUTH_TOKEN": "0123456789abcdef"}, "it wants another token than that of RAY_AUTH_TOKEN: put the output"),
        ({"RAY_AUTH_MODE": "disabled"}, "it wants a token, which this process may not show: unset RAY_AUTH_MODE."),
    ],
)
def test_every_command_says_in_a_sentence_what_is_wrong_with_the_token(
    asking: Head, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    home = new_home(tmp_path, token=False)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\n")
    file = write(tmp_path / "serve.yaml", document(free_port()))
    environment = environment_at(home, MARK) | variables | {"RAY_ADDRESS": asking.address}
    at = ("--address", asking.address)
    commands: list[list[object]] = [
        ["generate", "Hello", *SIMULATED, *at],
        ["generate", "Hello", *SIMULATED, "--address", "auto"],
        ["run", prompts, *SIMULATED, *at],
        ["serve", *SIMULATED, "--port", free_port(), *at],
        ["scale", 2, *at],
        ["drain", "worker-0", *at],
        ["deploy", file, "--address", asking.dashboard],
        ["deploy", file, "--address", "auto"],
    ]
    for command, done in zip(commands, run_commands(commands, environment), strict=True):
        assert (done.status, done.out) == (2, ""), command
        told = done.err.strip().splitlines()
        assert told[-1].startswith("Error: Cannot "), (command, done.err)
        assert words in told[-1], (command, done.err)
    refusals = json.loads(run_program(ANSWERS, asking.address, environment=environment))
    assert len(refusals) == 2
    assert all(words in told for told in refusals), refusals


def test_a_cluster_without_authentication_needs_no_token(open_head: Head, tmp_path: Path) -> None:
    """Nor does it mind that there is one."""
    file = write(tmp_path / "serve.yaml", document(free_port()))
    generate = ["generate", "Hello", *SHORT, "--address", "auto"]
    at_dashboard = ["--address", open_head.dashboard, "--timeout-s", 120]
    address = {"RAY_ADDRESS": open_head.address}
    done = run_commands(
        [generate, ["deploy", file, *at_dashboard], ["scale", 1, "--pool", "sim"]],
        environment_at(new_home(tmp_path), MARK) | address,
    )
    done += run_commands([generate], environment_at(open_head.home, MARK) | address)
    assert [one.status for one in done] == [0, 0, 0, 0], done
