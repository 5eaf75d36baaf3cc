"""Where Ray's token is found: where Ray itself finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.heads import environment_at

CASES: list[tuple[dict[str, str], str | None]] = [
    ({}, "of-home"),
    ({"RAY_AUTH_TOKEN": " of-variable\n"}, "of-variable"),
    ({"RAY_AUTH_TOKEN_PATH": "named"}, "of-file"),
    ({"RAY_AUTH_TOKEN": "of-variable", "RAY_AUTH_TOKEN_PATH": "named"}, "of-variable"),
    ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}, "of-home"),
    ({"RAY_AUTH_TOKEN": "of-variable", "RAY_AUTH_TOKEN_PATH": "nowhere"}, "of-variable"),
    ({"RAY_AUTH_TOKEN_PATH": "nowhere"}, "error"),
    ({"RAY_AUTH_TOKEN_PATH": "empty"}, "error"),
    ({"HOME": "nowhere"}, None),
]
FIND = """
import json, os, sys
from ray._raylet import AuthenticationTokenLoader
from ray.exceptions import AuthenticationError
from actors.errors import ConfigurationError
from actors.ray_token import find_token

def of_ray():
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return loader.get_raw_token(ignore_auth_mode=True) or None
    except AuthenticationError:
        return "error"

def ours():
    try:
        token = find_token()
    except ConfigurationError:
        return "error"
    return token and token.value

as_it_was, told = dict(os.environ), []
for case in json.loads(sys.argv[1]):
    os.environ.update(case)
    told.append([ours(), of_ray()])
    os.environ.clear()
    os.environ.update(as_it_was)
print(json.dumps(told))
"""
MODES = """
import os
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode
from actors.ray_token import use_tokens

def told():
    on = get_authentication_mode() == AuthenticationMode.TOKEN
    return on, AuthenticationTokenLoader.instance().get_token_for_http_header().get("authorization")

os.environ["RAY_AUTH_TOKEN"] = "one"
use_tokens(True)
assert told() == (True, "Bearer one"), told()
os.environ["RAY_AUTH_TOKEN"] = "two"
use_tokens(True)
assert told() == (True, "Bearer two"), "that of the cluster before"
use_tokens(False)
assert told() == (False, None), told()
assert "RAY_AUTH_MODE" not in os.environ
os.environ["RAY_AUTH_MODE"] = "disabled"
use_tokens(False)
assert os.environ["RAY_AUTH_MODE"] == "disabled", "somebody wants that"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In a process of its own, since Ray's own answer is that of the whole process."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    (tmp_path / "named").write_text("of-file\n")
    (tmp_path / "empty").write_text("\n")
    return environment_at(tmp_path, "token-test")


def run(code: str, *arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60.0, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_found_where_ray_finds_it(tmp_path: Path, environment: dict[str, str]) -> None:
    files = {"named": tmp_path / "named", "empty": tmp_path / "empty", "nowhere": tmp_path / "nowhere"}
    cases = [{name: str(files.get(value, value)) for name, value in case.items()} for case, _ in CASES]
    told = json.loads(run(FIND, json.dumps(cases), environment=environment))
    assert told == [[expected, expected] for _, expected in CASES]


def test_a_process_can_go_from_one_cluster_to_another(environment: dict[str, str]) -> None:
    run(MODES, environment=environment)
