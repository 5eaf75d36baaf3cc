"""`python -m actors.scheduling.simulator TRACE --workers 8 --policy cost`: see --help."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

from actors.errors import ConfigurationError
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.simulator import arrivals
from actors.scheduling.simulator.jobs import Job
from actors.scheduling.simulator.metrics import Group, Outcome, Spread
from actors.scheduling.simulator.options import Options, parse
from actors.scheduling.simulator.run import WAIT_SHARE, simulate
from actors.scheduling.simulator.tables import mean_cell
from actors.scheduling.simulator.traces import Replay, TraceRequest, read_trace, replay

GENERATED_RATE = 10.0


def make_jobs(options: Options, trace: Sequence[TraceRequest] | None, seed: int) -> Sequence[Job]:
    """The jobs of a seed: the same for every policy."""
    rng = random.Random(seed)
    jobs = _generate(options, rng) if trace is None else replay(trace, _window(options), rng)
    if options.tenants:
        arrivals.mix_tenants(jobs, options.tenants, rng)
    if options.classes:
        arrivals.mix_classes(jobs, options.classes, rng)
    return jobs


def _window(options: Options) -> Replay:
    return Replay(
        requests=options.requests,
        rate=options.rate,
        max_prompt_tokens=options.max_prompt_tokens,
        max_output_tokens=options.max_output_tokens,
        max_new_tokens=options.max_new_tokens,
    )


def _generate(options: Options, rng: random.Random) -> Sequence[Job]:
    if options.workload == "independent":
        return arrivals.independent(options.requests, rng)
    times = arrivals.gamma_arrivals(options.requests, options.rate or GENERATED_RATE, rng, options.burstiness)
    makers: dict[str | None, Callable[[Sequence[float], random.Random], Sequence[Job]]] = {
        "chat": arrivals.multi_turn,
        "hot-prefix": arrivals.hot_prefix,
        "heavy-tail": arrivals.heavy_tail,
    }
    return makers[options.workload](times, rng)


def run(options: Options) -> dict[str, list[Outcome]]:
    """All seeds of all policies.

    :raises ConfigurationError: the trace cannot be read.
    """
    trace = None if options.trace is None else read_trace(options.trace)
    max_wait_s = options.max_wait_s or WAIT_SHARE * options.slo.ttft_s
    config = SchedulerConfig(max_wait_s=max_wait_s, max_queued_requests=max(options.requests, 4096))
    pools = [replace(options.pool, seed=options.pool.seed + number) for number in range(options.seeds)]
    return {
        policy: [
            simulate(partial(make_jobs, options, trace, pool.seed), pool, policy, slo=options.slo, config=config)
            for pool in pools
        ]
        for policy in options.policies
    }


_Row = tuple[str, Callable[[Outcome], float | None]]

_ROWS: tuple[_Row, ...] = (
    ("requests", lambda o: o.requests),
    ("goodput, % of requests", lambda o: 100 * o.goodput),
    ("goodput, requests/s", lambda o: o.goodput_per_s),
    ("rejected, %", lambda o: 100 * o.rejected),
    ("prefix hits, % of prompt tokens", lambda o: 100 * o.prefix_hit_rate),
    ("… with one unlimited cache, %", lambda o: 100 * o.unlimited_hit_rate),
    ("makespan, s", lambda o: o.makespan_s),
    ("… lower bound, s", lambda o: o.bound_s),
    ("attempts per request", lambda o: o.attempts),
)


def _spread_rows(title: str, scale: float, spread: Callable[[Outcome], Spread | None]) -> list[_Row]:
    def reader(field: str) -> Callable[[Outcome], float | None]:
        def read(outcome: Outcome) -> float | None:
            found = spread(outcome)
            return None if found is None else scale * float(getattr(found, field))

        return read

    return [(f"{title}, {field}", reader(field)) for field in ("mean", "p50", "p99")]


def _group_rows(title: str, groups: Callable[[Outcome], dict[str, Group]], name: str) -> list[_Row]:
    def reader(value: Callable[[Group], float]) -> Callable[[Outcome], float | None]:
        def read(outcome: Outcome) -> float | None:
            group = groups(outcome).get(name)
            return None if group is None else value(group)

        return read

    return [
        (f"{title} {name}: goodput, % of its requests", reader(lambda group: 100 * group.goodput)),
        (f"{title} {name}: rejected, %", reader(lambda group: 100 * group.rejected)),
        (f"{title} {name}: share of service, %", reader(lambda group: 100 * group.service)),
        (f"{title} {name}: TTFT s, p50", reader(lambda group: group.ttft_s.p50)),
        (f"{title} {name}: TTFT s, p99", reader(lambda group: group.ttft_s.p99)),
    ]


def table(results: dict[str, list[Outcome]]) -> str:
    """Markdown: a column per policy, means over seeds."""
    first = next(iter(results.values()))[0]
    rows: list[_Row] = list(_ROWS)
    rows += _spread_rows("TTFT s", 1.0, lambda o: o.ttft_s)
    rows += _spread_rows("TPOT ms", 1000.0, lambda o: o.tpot_s)
    rows += _spread_rows("E2E s", 1.0, lambda o: o.e2e_s)
    rows += _spread_rows("error of estimated waits s", 1.0, lambda o: o.wait_error_s)
    rows += _spread_rows("decision µs", 1.0, lambda o: o.decision_us)
    for name in first.tenants if len(first.tenants) > 1 else ():
        rows += _group_rows("tenant", lambda o: o.tenants, name)
    for name in first.classes if len(first.classes) > 1 else ():
        rows += _group_rows("class", lambda o: o.classes, name)
    lines = ["| | " + " | ".join(f"`{policy}`" for policy in results) + " |", "|---" * (len(results) + 1) + "|"]
    for title, read in rows:
        cells = [mean_cell([read(outcome) for outcome in outcomes]) for outcomes in results.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    try:
        results = run(options)
    except ConfigurationError as error:
        sys.exit(error.message)
    print(table(results))
    if options.json is not None:
        data = {
            "settings": asdict(options),
            "policies": {policy: [asdict(outcome) for outcome in outcomes] for policy, outcomes in results.items()},
        }
        try:
            options.json.write_text(json.dumps(data, default=str, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            sys.exit(f"Cannot write {options.json}: {error.strerror}.")


if __name__ == "__main__":
    main()
