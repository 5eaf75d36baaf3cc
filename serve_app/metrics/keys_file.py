"""What is told of the keys file: whether its keys are in force, and since when that is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

KeysFileState = Literal["none", "current", "empty", "missing", "broken"]
"""none: no key is needed. current: the file's keys are in force. empty, missing: so they are, and there are none, so
everybody is refused. broken: it cannot be read, or is no list of keys; what it said before is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysFileStatus:
    """`age_s`: how long ago the keys in force were last found to be what the file says."""

    state: KeysFileState
    keys: int
    age_s: float
    reloads: int
    failed_reloads: int


class KeysFileMetrics(Collector):
    """The series of one replica; none where no keys file is set. Asks whenever somebody scrapes."""

    def __init__(self, replica: str, ask: Callable[[], KeysFileStatus]) -> None:
        self._replica = replica
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        status = self._ask()
        if status.state == "none":
            return
        broken = float(status.state == "broken")
        yield self._gauge("exlpool_keys", "Keys in force.", status.keys)
        yield self._gauge("exlpool_keys_file_broken", "1: unreadable; what it said before is in force.", broken)
        yield self._gauge("exlpool_keys_file_age_seconds", "Since the keys were last those of the file.", status.age_s)
        reloads = CounterMetricFamily("exlpool_keys_file_reloads", "Changes by outcome.", labels=("outcome", "replica"))
        reloads.add_metric(("ok", self._replica), status.reloads)
        reloads.add_metric(("failed", self._replica), status.failed_reloads)
        yield reloads

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, what, labels=("replica",))
        gauge.add_metric((self._replica,), value)
        return gauge

    def __repr__(self) -> str:
        return f"<KeysFileMetrics of {self._replica}: {self._ask()}>"
