"""`exlpool doctor` on this machine, and what it prints and returns."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from actors.builtin_model import builtin_model_path
from actors.version import package_version
from cluster.doctor import gather, trial
from cluster.doctor.facts import Machine, Question
from cluster.doctor.nvml import read_nvidia
from tests.cluster.conftest import Exlpool
from tests.cluster.doctor.machines import GOOD, GPU, HEAD, LIBRARIES, MODEL, TORCH, with_gpus
from tests.cluster.doctor.test_gather import SCRIPT
from tests.cluster.test_cli_arguments import plain


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing torch."""
    monkeypatch.setattr(trial, "SCRIPT", SCRIPT)


def found_here(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Has the command find a made-up machine, which has those models that are asked about."""
    exlpool = package_version()

    def look(question: Question) -> Machine:
        models = tuple(replace(MODEL, path=path) for path in question.models)
        return replace(machine, exlpool=exlpool, models=models)

    monkeypatch.setattr(gather, "gather", look)


@pytest.mark.skipif(read_nvidia().hardware > 0, reason="there is a GPU")
def test_this_machine_is_good_without_a_gpu(exlpool: Exlpool) -> None:
    done = exlpool("doctor")
    told = " ".join(plain(done.out).split())
    assert done.status == 0, told
    assert "fine for the CPU engine and for a head" in told
    assert f"torch ok {version('torch')}" in told


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(read_nvidia().hardware > 0, reason="there is a GPU")
def test_a_gpu_that_is_wanted_and_not_there_is_missing(exlpool: Exlpool) -> None:
    done = exlpool("doctor", "--gpu")
    told = " ".join(plain(done.out).split())
    assert done.status == 1
    assert "GPU missing none on this machine → A GPU worker needs an NVIDIA GPU" in told
    assert "1 missing" in told


@pytest.mark.usefixtures("quick")
def test_json_has_facts_and_findings(exlpool: Exlpool) -> None:
    done = exlpool("doctor", "--json", "--no-gpu", "--model", builtin_model_path())
    assert done.status == 0
    told = json.loads(done.out)
    assert told["good"] is True
    (part,) = told["parts"]
    assert part["machine"]["models"][0]["weight_bytes"] > 1_000_000
    assert {"check", "level", "told", "cure"} == part["findings"][0].keys()


def test_a_model_is_measured_against_the_gpu(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch) -> None:
    found_here(monkeypatch, GOOD)
    options = ["--model", "/models/llama", "--engine", "exllamav2"]
    done = exlpool("doctor", *options, "--cache-tokens", 65536)
    assert done.status == 0, done.out
    done = exlpool("doctor", *options, "--cache-tokens", 262144)
    assert done.status == 1
    assert "Lower cache_tokens to about" in " ".join(done.out.split())
    done = exlpool("doctor", *options, "--cache-tokens", 262144, "--cache-mode", "q4")
    assert done.status == 0, done.out
    found_here(monkeypatch, with_gpus(GOOD, GPU, replace(GPU, index=1)))
    done = exlpool("doctor", *options, "--cache-tokens", 262144, "--gpus-per-worker", 2)
    assert done.status == 0, done.out


def test_a_file_names_the_models(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found_here(monkeypatch, GOOD)
    pool = tmp_path / "pool.yaml"
    pool.write_text("model: /models/llama\nengine: exllamav2\ncache_tokens: 262144\ncache_mode: q4\n")
    assert exlpool("doctor", "--config", pool).status == 0
    assert exlpool("doctor", "--config", pool, "--cache-mode", "fp16").status == 1
    served = tmp_path / "serve.yaml"
    one, other = (
        "{name: org/a, model: /models/a, cache_tokens: 8192}",
        "{name: b, model: /models/b, cache_tokens: 8192}",
    )
    served.write_text(f"models: [{one}, {other}]\n")
    done = exlpool("doctor", "--config", served)
    assert done.status == 0, done.out
    assert " ".join(done.out.split()).count("GB of weights") == 4
    served.write_text("model: /models/a\ncache_tokens: 8192\nname: mine\nport: 9000\nhttp: {port: 9000}\n")
    assert exlpool("doctor", "--config", served).status == 0
    served.write_text("applications: []\n")
    assert "exlpool deploy" in plain(exlpool("doctor", "--config", served).err)
    served.write_text("modles: []\n")
    done = exlpool("doctor", "--config", served)
    assert done.status == 2
    assert "serve.yaml" in plain(done.err)
    assert "modles" in plain(done.err)


def test_a_model_for_gpus_is_not_good_on_a_machine_without(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch) -> None:
    found_here(monkeypatch, HEAD)
    assert exlpool("doctor", "--model", "/models/exl2").status == 1
    assert exlpool("doctor").status == 0


def test_no_word_is_lost_on_a_narrow_terminal_and_commands_stay_whole(
    exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for_cpus = replace(LIBRARIES, torch=replace(TORCH, cuda=None))
    found_here(monkeypatch, replace(with_gpus(GOOD, replace(GPU, name="[b]RTX[/b]")), libraries=for_cpus))
    done = exlpool("doctor")
    assert done.status == 1
    assert "[b]RTX[/b]" in done.out
    assert (
        "\n    → pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128\n" in done.out
    )
