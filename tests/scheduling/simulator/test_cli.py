"""The commands: what they print, what they write, and what they say when the command line makes no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.scheduling.simulator import comparison, filling, scenarios
from actors.scheduling.simulator.__main__ import main

SMALL = ["--workers", "2", "--requests", "40"]


def rows(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the first of each row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def mooncake(path: Path) -> Path:
    lines = [
        {"timestamp": 100 * i, "input_length": 1200, "output_length": 20, "hash_ids": [1, 2, 100 + i]}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_trace_is_replayed_and_all_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = mooncake(tmp_path / "trace.jsonl"), tmp_path / "out.json"
    main([str(trace), *SMALL, "--policy", "cost,dynamo", "--policy", "round_robin", "--json", str(out)])
    table = rows(capsys.readouterr().out)
    assert table[""] == ["`cost`", "`dynamo`", "`round_robin`"]
    assert table["requests"] == ["40.00"] * 3
    for kind in ("TTFT s", "TPOT ms", "E2E s", "decision µs"):
        assert {f"{kind}, {field}" for field in ("mean", "p50", "p99")} <= table.keys()
    assert float(table["… with one unlimited cache, %"][0]) == pytest.approx(100 * 1024 * 39 / (40 * 1200), abs=0.01)
    assert float(table["makespan, s"][0]) >= float(table["… lower bound, s"][0])
    assert table["decision µs, p50"][1] == "–", "routers are not timed"
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["settings"]["workload"] is None
    assert list(data["policies"]) == ["cost", "dynamo", "round_robin"]
    (outcome,) = data["policies"]["cost"]
    assert outcome["requests"] == 40
    assert outcome["ttft_s"].keys() == {"mean", "p50", "p99"}


def test_tenants_classes_speeds_and_deaths(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--generate", "chat", "--rate", "5", "--burstiness", "0.5", *SMALL, "--seeds", "2"]
    mixes = ["--tenants", "heavy=0.6,light=0.4", "--classes", "interactive=1,batch=1"]
    main([*load, *mixes, "--speeds", "1,0.5", "--death", "2:1:5"])
    table = rows(capsys.readouterr().out)
    shares = [float(table[f"tenant {name}: share of service, %"][0]) for name in ("heavy", "light")]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert {"class interactive: TTFT s, p99", "class batch: goodput, % of its requests"} <= table.keys()
    assert float(table["attempts per request"][0]) >= 1.0


@pytest.mark.parametrize("workload", ["hot-prefix", "heavy-tail", "independent"])
def test_every_workload_runs(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--generate", workload, *SMALL, "--max-wait", "99"])
    assert rows(capsys.readouterr().out)["requests"] == ["40.00"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Give either a TRACE or --generate"),
        (["a.csv", "--generate", "chat"], "Give either a TRACE or --generate"),
        (["nothing.csv"], "Cannot read the trace nothing.csv: No such file or directory."),
        (["--generate", "chat", "--policy", "best"], "There is no policy 'best'; there are cost,"),
        (["--generate", "songs"], "invalid choice: 'songs'"),
        (["--generate", "chat", "--workers", "0"], "must be at least 1, not 0"),
        (["--generate", "chat", "--rate", "x"], "invalid number value: 'x'"),
        (["--generate", "chat", "--rate", "-1"], "must be above 0, not -1"),
        (["--generate", "chat", "--report-lag-ms", "nan"], "must be at least 0.0, not nan"),
        (["--generate", "chat", "--speeds", "1,fast"], "must be numbers above 0"),
        (["--generate", "chat", "--tenants", "a"], "must be NAME=SHARE"),
        (["--generate", "chat", "--classes", "urgent=1"], "The classes are interactive, default and batch"),
        (["--generate", "chat", "--death", "soon:1"], "must be SECONDS:WORKER"),
        (["--generate", "chat", "--death", "1:2:3:4"], "must be SECONDS:WORKER"),
        (["--generate", "chat", "--death", "3:8"], "Worker 8 cannot die: there are 8, from 0 on"),
        (["--generate", "chat", "--requests", "3", "--json", "/nowhere/x.json"], "Cannot write /nowhere/x.json"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    text = str(ended.value.code) if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert sentence in text
    assert len(text.strip().splitlines()) == 1
    assert ended.value.code != 0


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actors.scheduling.simulator", str(mooncake(tmp_path / "t.jsonl")), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "goodput" in done.stdout


def test_the_comparison_writes_tables_figures_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenarios, "REQUESTS", 200)
    out = tmp_path / "table"
    arguments = ["--seeds", "2", "--scenarios", "one tenant sends 60 %", "--policies", "cost,round_robin_router"]
    comparison.main([*arguments, "--out", str(out)])
    printed = capsys.readouterr().out
    assert out.with_suffix(".md").read_text(encoding="utf-8") == printed
    assert "| one tenant sends 60 % | **" in printed
    assert "goodput of the heavy tenant" in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(data["one tenant sends 60 %"]["cost"]) == 2


@pytest.mark.parametrize(
    ("option", "sentence"), [("--scenarios", "There is no scenario 'x'"), ("--policies", "no policy")]
)
def test_the_comparison_knows_its_names(option: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparison.main([option, "x"])
    assert sentence in capsys.readouterr().err


def test_filling_gaps_prints_a_row_per_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(filling, "CHATS", 20)
    monkeypatch.setattr(filling, "DATA_SET", 20)
    filling.main(["--seeds", "1"])
    assert set(rows(capsys.readouterr().out)) >= {case.name for case in filling.CASES}
