"""What runs on a node is sent there whole: it needs no exlpool, and answers in JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ray import cloudpickle

from actors.builtin_model import builtin_model_path
from actors.version import package_version
from cluster.doctor.facts import Machine, Package, Question
from cluster.doctor.gather import gather, gather_as_json
from cluster.doctor.nodes import sent_by_value

TIMEOUT_S = 120.0
SCRIPT = 'print(\'exlpool doctor: \' + \'{"stage": "torch", "found": {"package": {"version": "7"}}}\')'
STRANGER = """
import sys

class NoExlpool:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("actors", "cluster", "serve_app"):
            raise ModuleNotFoundError(f"a node without exlpool was to import {name}")

sys.meta_path.insert(0, NoExlpool())
import importlib.metadata
installed = importlib.metadata.version

def version(name):
    if name == "exlpool":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.version = version
from ray import cloudpickle
function, question = cloudpickle.loads(open(sys.argv[1], "rb").read())
print(function(question))
"""


def test_a_node_without_exlpool_answers(tmp_path: Path) -> None:
    question = Question(SCRIPT, (str(builtin_model_path()), str(tmp_path)), ("DOCTOR_TEST", "DOCTOR_NOT"))
    with sent_by_value():
        (tmp_path / "function").write_bytes(cloudpickle.dumps((gather_as_json, asdict(question))))  # type: ignore[no-untyped-call]
    done = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, str(tmp_path / "function")],
        cwd=tmp_path,
        env={**os.environ, "DOCTOR_TEST": "here", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    machine = TypeAdapter(Machine).validate_json(done.stdout)
    assert machine.exlpool is None
    assert machine.libraries.torch is not None
    assert machine.libraries.torch.package == Package("7")
    assert machine.system.variables == {"DOCTOR_TEST": "here"}
    built_in, nothing = machine.models
    assert (built_in.error, built_in.config["hidden_size"]) == (None, 256)
    assert "no config.json" in str(nothing.error)


def test_what_a_machine_tells_crosses_as_json() -> None:
    machine = gather(Question(SCRIPT))
    assert machine.exlpool == package_version()
    assert machine.python == ".".join(map(str, sys.version_info[:3]))
    assert machine.system.memory_bytes > 0
    assert machine.system.loopback_error is None
    adapter = TypeAdapter(Machine)
    assert adapter.validate_json(adapter.dump_json(machine)) == machine


def test_a_directory_that_ray_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    assert "RAY_TMPDIR" in str(gather(Question(SCRIPT)).system.temp_dir_error)
