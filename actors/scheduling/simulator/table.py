"""The comparison of all policies over all scenarios: `python -m actors.scheduling.simulator.table`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from actors.scheduling.simulator.metrics import Outcome
from actors.scheduling.simulator.run import simulate
from actors.scheduling.simulator.scenarios import MADE_UP, Scenario, from_traces
from actors.scheduling.simulator.traces import read_trace

POLICIES = (
    "cost",
    "lmetric",
    "power_of_two",
    "least_requests",
    "lmetric_router",
    "dynamo",
    "sglang_cache_aware",
    "ray_prefix_affinity",
    "ray_power_of_two",
    "round_robin_router",
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds, and half the width of its 95 % confidence interval (Student's t)."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.half:.1f}"


def interval(values: Sequence[float]) -> Interval:
    if len(values) < 2:
        return Interval(fmean(values), math.nan)
    return Interval(fmean(values), t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def t_quantile(probability: float, freedom: int) -> float:
    """Student's t, by the expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5): within 1 % from 4 on."""
    z: float = NormalDist().inv_cdf(probability)
    terms = (
        (z * z * z + z) / 4,
        (5 * z**5 + 16 * z * z * z + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z * z * z - 15 * z) / 384,
    )
    return z + terms[0] / freedom + terms[1] / freedom**2 + terms[2] / freedom**3


Results = dict[str, dict[str, list[Outcome]]]


def run_all(scenarios: Sequence[Scenario], policies: Sequence[str], seeds: int) -> Results:
    """Outcomes by scenario and policy, one per seed."""
    results: Results = {}
    for scenario in scenarios:
        row = results[scenario.name] = {}
        for policy in policies:
            begin_s = time.perf_counter()
            row[policy] = [_run(scenario, policy, seed) for seed in range(seeds)]
            goodput = interval([outcome.goodput for outcome in row[policy]])
            took_s = time.perf_counter() - begin_s
            print(f"{scenario.name:24s} {policy:20s} {goodput!s:14s} {took_s:6.1f} s", file=sys.stderr, flush=True)
    return results


def _run(scenario: Scenario, policy: str, seed: int) -> Outcome:
    return simulate(lambda: scenario.jobs(seed), scenario.pool(seed), policy, slo=scenario.slo)


def goodput_table(results: Results) -> str:
    """Markdown: goodput in % of all requests. Bold: best of the row, or within its interval."""
    policies = list(next(iter(results.values())))
    lines = ["| scenario | " + " | ".join(f"`{p}`" for p in policies) + " |", "|---" * (len(policies) + 1) + "|"]
    for name, row in results.items():
        cells = {policy: interval([o.goodput for o in outcomes]) for policy, outcomes in row.items()}
        best = max(cells.values(), key=lambda cell: cell.mean)
        shown = [f"**{c}**" if c.mean >= best.mean - best.half else str(c) for c in cells.values()]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    overall = [f"{100 * fmean(o.goodput for row in results.values() for o in row[p]):.1f}" for p in policies]
    top = max(overall, key=float)
    lines.append("| **all** | " + " | ".join(f"**{v}**" if v == top else v for v in overall) + " |")
    return "\n".join(lines)


_DETAILS: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
    ("rejected %", lambda o: 100 * o.rejected),
    ("TTFT mean s", lambda o: o.ttft_s.mean),
    ("TTFT p50 s", lambda o: o.ttft_s.p50),
    ("TTFT p99 s", lambda o: o.ttft_s.p99),
    ("TPOT mean ms", lambda o: 1000 * o.tpot_s.mean),
    ("TPOT p99 ms", lambda o: 1000 * o.tpot_s.p99),
    ("E2E mean s", lambda o: o.e2e_s.mean),
    ("E2E p99 s", lambda o: o.e2e_s.p99),
    ("hit %", lambda o: 100 * o.prefix_hit_rate),
    ("unlimited hit %", lambda o: 100 * o.unlimited_hit_rate),
    ("wait error s", lambda o: 0.0 if o.wait_error_s is None else o.wait_error_s.mean),
    ("decision µs p50", lambda o: 0.0 if o.decision_us is None else o.decision_us.p50),
)


def detail_tables(results: Results) -> str:
    """Markdown: the other figures, a table per scenario, means over seeds."""
    parts = []
    for name, row in results.items():
        lines = [f"### {name}", "", "| policy | " + " | ".join(title for title, _ in _DETAILS) + " |"]
        lines.append("|---" * (len(_DETAILS) + 1) + "|")
        for policy, outcomes in row.items():
            cells = [f"{fmean(value(o) for o in outcomes):.2f}" for _, value in _DETAILS]
            lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def plot(results: Results, path: Path) -> None:
    """Goodput per scenario and policy as a picture."""
    from matplotlib.figure import Figure  # not needed to simulate

    policies = list(next(iter(results.values())))
    figure = Figure(figsize=(14, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(policies)
    for column, policy in enumerate(policies):
        cells = [interval([o.goodput for o in row[policy]]) for row in results.values()]
        places = [row + column * width for row in range(len(cells))]
        errors = [100 * cell.half for cell in cells]
        axes.bar(places, [100 * cell.mean for cell in cells], width, yerr=errors, label=policy, error_kw={"lw": 0.6})
    axes.set_xticks([row + 0.4 for row in range(len(results))], list(results), rotation=20, ha="right")
    axes.set_ylabel("goodput, % of requests that met both SLOs")
    axes.legend(ncols=5, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.scheduling.simulator.table", description=__doc__)
    parser.add_argument("--mooncake", type=Path, help="Mooncake's conversation trace (JSON lines)")
    parser.add_argument("--azure", type=Path, help="Azure's LLM inference trace (CSV)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--scenarios", default="", help="names, separated by commas; default: all")
    parser.add_argument("--out", type=Path, default=Path("scheduling-table"), help="writes OUT.md, OUT.json, OUT.png")
    args = parser.parse_args(arguments)
    mooncake, azure = (None if path is None else read_trace(path) for path in (args.mooncake, args.azure))
    scenarios = [*from_traces(mooncake, azure), *MADE_UP]
    if args.scenarios:
        scenarios = [scenario for scenario in scenarios if scenario.name in args.scenarios.split(",")]
    results = run_all(scenarios, args.policies.split(","), args.seeds)
    table = goodput_table(results)
    print(table)
    args.out.with_suffix(".md").write_text(f"{table}\n\n{detail_tables(results)}\n", encoding="utf-8")
    data = {name: {p: [asdict(o) for o in outcomes] for p, outcomes in row.items()} for name, row in results.items()}
    args.out.with_suffix(".json").write_text(json.dumps(data), encoding="utf-8")
    plot(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
