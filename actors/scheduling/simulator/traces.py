"""Reads recorded traces: Mooncake's JSON lines and Azure's CSV, plain, .gz or .xz."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, cast

from actors.errors import ConfigurationError
from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling.simulator.jobs import Job, page_name, shareable

MOONCAKE_BLOCK_TOKENS = 512
_PER_BLOCK = MOONCAKE_BLOCK_TOKENS // PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace. `blocks` has an id per 512 prompt tokens (Mooncake), or is empty (Azure)."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_trace(path: Path) -> list[TraceRequest]:
    """All requests of a trace, in order of time, the first at 0 s.

    :raises ConfigurationError: the file cannot be read, or is of neither format.
    """
    try:
        with _open(path) as file:
            first = file.read(1)
            file.seek(0)
            requests = _read_mooncake(file) if first == "{" else _read_azure(file)
    except OSError as error:
        raise ConfigurationError(f"Cannot read the trace {path}: {error.strerror or error}.") from None
    except (EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ConfigurationError(f"Cannot read the trace {path}: {error}.") from None
    if not requests:
        raise ConfigurationError(f"The trace {path} has no requests.")
    requests.sort(key=lambda request: request.at_s)
    start_s = requests[0].at_s
    return [TraceRequest(r.at_s - start_s, r.prompt_tokens, r.output_tokens, r.blocks) for r in requests]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8"))
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8-sig")


def _read_mooncake(file: TextIO) -> list[TraceRequest]:
    requests = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            blocks = tuple(int(block) for block in row.get("hash_ids", ()))
            at_s, prompt, output = float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"line {number} is no JSON object with numbers timestamp, input_length and output_length"
            ) from None
        requests.append(TraceRequest(at_s, prompt, output, blocks))
    return requests


def _read_azure(file: TextIO) -> list[TraceRequest]:
    requests = []
    for row in (reader := csv.DictReader(file)):
        try:
            at_s, prompt, output = _seconds(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {reader.line_num} has no time and numbers under TIMESTAMP, ContextTokens and GeneratedTokens"
            ) from None
        requests.append(TraceRequest(at_s, prompt, output))
    return requests


def _seconds(timestamp: str) -> float:
    """Seconds of an ISO time; one without a zone is UTC. Azure's have a seventh decimal, which Python drops."""
    moment = datetime.fromisoformat(timestamp)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a trace is made to fit a small pool: a window of it, its clock and its lengths scaled down or cut."""

    requests: int = 1500
    """Of the window."""
    rate: float | None = None
    """Mean requests per second that the window's clock is scaled to; None: the trace's own clock."""
    max_prompt_tokens: int = 16_384
    max_output_tokens: int = 1024
    max_new_tokens: int = 1024
    """What every request asks for: traces do not say."""


def replay(trace: Sequence[TraceRequest], settings: Replay, rng: random.Random) -> list[Job]:
    """Jobs of a window that begins anywhere in the trace."""
    count = min(settings.requests, len(trace))
    begin = rng.randrange(len(trace) - count + 1)
    window = trace[begin : begin + count]
    span_s = max(window[-1].at_s - window[0].at_s, 1e-9)
    scale = 1.0 if settings.rate is None else count / settings.rate / span_s
    jobs = []
    for number, request in enumerate(window):
        prompt = min(max(request.prompt_tokens, 1), settings.max_prompt_tokens)
        names = tuple(page_name(block, part) for block in request.blocks for part in range(_PER_BLOCK))
        jobs.append(
            Job(
                job_id=f"r{number}",
                arrival_s=(request.at_s - window[0].at_s) * scale,
                prompt_tokens=prompt,
                output_tokens=min(max(request.output_tokens, 1), settings.max_output_tokens, settings.max_new_tokens),
                max_new_tokens=settings.max_new_tokens,
                pages=shareable(names, prompt),
            )
        )
    return jobs
