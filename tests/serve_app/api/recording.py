"""An observer that keeps what it is told."""

from __future__ import annotations

from serve_app.metrics.observer import RequestRecord


class RecordingObserver:
    def __init__(self) -> None:
        self.starts: list[str] = []
        self.first_gaps: list[float] = []
        self.later: list[tuple[float, int]] = []
        self.records: list[RequestRecord] = []

    def started(self, model: str) -> None:
        self.starts.append(model)

    def first_tokens(self, model: str, after_s: float) -> None:
        self.first_gaps.append(after_s)

    def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
        self.later.append((gap_s, tokens))

    def ended(self, record: RequestRecord) -> None:
        self.records.append(record)
