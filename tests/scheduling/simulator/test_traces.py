"""Readers of recorded traces, with small files made here."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.errors import ConfigurationError
from actors.scheduling.simulator.traces import Replay, TraceRequest, read_trace, replay

MOONCAKE = [
    {"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [5, 6, 8]},
    {"timestamp": 1000, "input_length": 600, "output_length": 50, "hash_ids": [5, 7]},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:05.4799600,3180,8
"""


def mooncake_text() -> str:
    return "".join(json.dumps(row) + "\n" for row in MOONCAKE)


def written(path: Path, text: str) -> Path:
    packers: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".gz": gzip.compress}
    pack = packers.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz", "a.jsonl.gz"])
def test_mooncake(tmp_path: Path, name: str) -> None:
    assert read_trace(written(tmp_path / name, mooncake_text())) == [
        TraceRequest(0.0, 600, 50, (5, 7)),
        TraceRequest(2.0, 1100, 7, (5, 6, 8)),
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.xz", "a.csv.gz"])
def test_azure(tmp_path: Path, name: str) -> None:
    first, second = read_trace(written(tmp_path / name, AZURE))
    assert first == TraceRequest(0.0, 4808, 10)
    assert (second.prompt_tokens, second.output_tokens) == (3180, 8)
    assert second.at_s == pytest.approx(1.5)


def test_azure_times_with_and_without_a_zone_and_a_fraction(tmp_path: Path) -> None:
    """Whole seconds come without a fraction; a zone that a time names is kept, and none is UTC."""
    rows = ("2024-05-10 00:00:00+00:00,1,1", "2024-05-10 00:00:01.250000+00:00,1,1", "2024-05-10 00:00:02,1,1")
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n"
    assert [request.at_s for request in read_trace(written(tmp_path / "a.csv", text))] == [0.0, 1.25, 2.0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"timestamp": 1}\n', "line 1 is no JSON object"),
        ("a.jsonl", mooncake_text() + "{]\n", "line 3 is no JSON object"),
        ("a.jsonl", mooncake_text() + "[1]\n", "line 3 is no JSON object"),
        ("a.csv", AZURE + "soon,1,2\n", "line 4 has no time"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,1\n", "line 4 has no time"),
        ("a.csv", "when,what\n1,2\n", "line 2 has no time and numbers under TIMESTAMP"),
        ("a.csv", "", "has no requests"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
    ],
)
def test_what_is_no_trace_is_told_in_a_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        read_trace(written(tmp_path / name, content))


@pytest.mark.parametrize("name", ["a.gz", "a.xz", "a.csv"])
def test_what_is_no_text_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(ConfigurationError, match="Cannot read the trace"):
        read_trace(path)
    whole = gzip.compress(AZURE.encode() * 1000)
    (tmp_path / "torn.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="Cannot read the trace"):
        read_trace(tmp_path / "torn.gz")


def test_a_missing_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_trace(tmp_path / "none.csv")


def trace(count: int) -> list[TraceRequest]:
    return [TraceRequest(2.0 * i, 1000 + i, 10 + i, (1, 100 + i)) for i in range(count)]


def test_a_window_is_scaled_to_a_rate_and_begins_at_zero() -> None:
    jobs = replay(trace(100), Replay(requests=20, rate=4.0), random.Random(1))
    assert len(jobs) == 20
    assert jobs[0].arrival_s == 0.0
    assert jobs[-1].arrival_s == pytest.approx(20 / 4.0)
    first = jobs[0].prompt_tokens
    assert [job.prompt_tokens for job in jobs] == list(range(first, first + 20))


def test_without_a_rate_the_trace_keeps_its_clock() -> None:
    jobs = replay(trace(10), Replay(requests=99), random.Random(1))
    assert [job.arrival_s for job in jobs] == [2.0 * i for i in range(10)]


def test_windows_differ_by_seed_and_repeat_for_one() -> None:
    starts = [replay(trace(100), Replay(requests=5), random.Random(seed))[0].prompt_tokens for seed in (1, 1, 2, 3, 4)]
    assert starts[0] == starts[1]
    assert len(set(starts)) > 1


def test_lengths_are_cut_and_blocks_of_512_become_two_pages() -> None:
    settings = Replay(requests=9, max_prompt_tokens=700, max_output_tokens=12, max_new_tokens=40)
    jobs = replay(
        [TraceRequest(0.0, 2000, 30, (1, 2, 3, 4)), TraceRequest(1.0, 0, 0, (1,))], settings, random.Random(0)
    )
    assert [(job.prompt_tokens, job.output_tokens, job.max_new_tokens) for job in jobs] == [(700, 12, 40), (1, 1, 40)]
    assert [len(job.pages) for job in jobs] == [2, 0]


def test_equal_blocks_are_equal_pages_even_with_large_ids() -> None:
    large = 2**40
    requests = [TraceRequest(0.0, 1500, 1, (large, large + 1)), TraceRequest(1.0, 1500, 1, (large, large + 2))]
    one, other = replay(requests, Replay(), random.Random(0))
    assert one.pages[:2] == other.pages[:2]
    assert not set(one.pages[2:]) & set(other.pages[2:])
