"""The terminal: what a person sees while work goes on. All of it on standard error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from actors import ExlpoolError, GenerationResult, WorkerState

errors = Console(stderr=True)
SHOWN_WORKERS = 8
"""Of which single ones are shown while they load."""


def complain(message: str) -> None:
    """Say what went wrong, on one line however long, word for word."""
    errors.print(Text.assemble(("Error:", "bold red"), " ", message), soft_wrap=True)


class Loading:
    """Shows how far the workers have come, until `done`."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def __call__(self, states: tuple[WorkerState, ...]) -> None:
        ready = sum(state.worker_id is not None for state in states)
        lines = [f"Starting workers: {ready} of {len(states)} ready"]
        others = [state for state in states if state.worker_id is None]
        lines += [f"  {escape(_coming(state))}" for state in others[:SHOWN_WORKERS]]
        if len(others) > SHOWN_WORKERS:
            lines.append(f"  and {len(others) - SHOWN_WORKERS} more")
        self._status.update("\n".join(lines))

    def done(self) -> None:
        self._status.stop()


def _coming(state: WorkerState) -> str:
    """What a worker that cannot generate yet is at."""
    where = f" on {state.node}" if state.node else ""
    if state.waiting:
        return f"{state.slot_name} {state.waiting}"
    if state.failure is not None:
        return f"{state.slot_name}{where} is lost: {state.failure}"
    if state.loading is None:
        return f"{state.slot_name}{where} starts"
    stage, done, total = state.loading
    return f"{state.slot_name}{where}: {stage} {done}/{total}"


@contextmanager
def loading() -> Iterator[Loading]:
    status = errors.status("Starting Ray")
    with status:
        yield Loading(status)


class RunProgress:
    """The bar and the sums of a run over a file."""

    def __init__(self, total: int) -> None:
        self._bar = Progress(
            TextColumn("Generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            console=errors,
        )
        self._task = self._bar.add_task("", total=total, rate="")
        self._started_s = time.monotonic()
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self.failed = 0

    def __enter__(self) -> RunProgress:
        self._bar.start()
        self._started_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, outcome: GenerationResult | ExlpoolError) -> None:
        if isinstance(outcome, GenerationResult):
            slot_name = outcome.worker_id.partition("#")[0]
            self._requests[slot_name] += 1
            self._tokens[slot_name] += outcome.usage.completion_tokens
        else:
            self.failed += 1
        rate = self._tokens.total() / max(time.monotonic() - self._started_s, 1e-9)
        self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} tokens/s")

    def summary(self) -> Table:
        """Completions, tokens and tokens/s of each worker and of all."""
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        requests = self._requests.total() + self.failed
        table = Table(
            title=f"{requests} requests in {elapsed_s:.1f} s, {self.failed} failed", box=SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("worker", overflow="fold")
        for heading in ("done", "tokens", "tokens/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for slot_name in sorted(self._requests):
            tokens = self._tokens[slot_name]
            table.add_row(slot_name, str(self._requests[slot_name]), str(tokens), f"{tokens / elapsed_s:,.0f}")
        total = self._tokens.total()
        table.add_row("all", str(self._requests.total()), str(total), f"{total / elapsed_s:,.0f}", style="bold")
        return table
