"""All policies over all scenarios, many seeds: `python -m actors.scheduling.simulator.comparison`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from actors.errors import ConfigurationError
from actors.scheduling.simulator.intervals import interval
from actors.scheduling.simulator.metrics import Outcome
from actors.scheduling.simulator.run import known_policies, simulate
from actors.scheduling.simulator.scenarios import DOMINANT_TENANT, MADE_UP, Scenario, from_traces
from actors.scheduling.simulator.tables import (
    Results,
    detail_tables,
    goodput_table,
    plot,
    tenant_table,
    verdict_table,
)
from actors.scheduling.simulator.traces import read_trace

POLICIES = (
    "cost",
    "lmetric",
    "power_of_two",
    "least_requests",
    "round_robin",
    "lmetric_router",
    "dynamo",
    "sglang_cache_aware",
    "sglang_cache_aware_early",
    "ray_prefix_affinity",
    "ray_power_of_two",
    "least_requests_router",
    "round_robin_router",
)


def run_all(scenarios: Sequence[Scenario], policies: Sequence[str], seeds: int) -> Results:
    """Run every policy over the same jobs; says on stderr how it goes."""
    results: Results = {}
    for scenario in scenarios:
        row = results[scenario.name] = {}
        for policy in policies:
            begin_s = time.perf_counter()
            row[policy] = [_run(scenario, policy, seed) for seed in range(seeds)]
            goodput = interval([outcome.goodput for outcome in row[policy]])
            took_s = time.perf_counter() - begin_s
            print(f"{scenario.name:24s} {policy:26s} {goodput!s:14s} {took_s:6.1f} s", file=sys.stderr, flush=True)
    return results


def _run(scenario: Scenario, policy: str, seed: int) -> Outcome:
    return simulate(lambda: scenario.jobs(seed), scenario.pool(seed), policy, slo=scenario.slo)


def report(scenarios: Sequence[Scenario], results: Results) -> str:
    """The comparison as Markdown."""
    levels = [f"TTFT {s.slo.ttft_s:g} s, TPOT {1000 * s.slo.tpot_s:g} ms" for s in scenarios]
    rows = [f"| {s.name} | {s.what} | {level} |" for s, level in zip(scenarios, levels, strict=True)]
    parts = [
        "| scenario | what | service levels |\n|---|---|---|\n" + "\n".join(rows),
        goodput_table(results),
    ]
    if all("cost" in row and len(row) > 1 for row in results.values()):
        parts.append(verdict_table(results))
    if DOMINANT_TENANT in results:
        parts.append(tenant_table(results, DOMINANT_TENANT))
    return "\n\n".join([*parts, detail_tables(results)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m actors.scheduling.simulator.comparison", description=__doc__)
    parser.add_argument("--mooncake", type=Path, help="a trace in Mooncake's format, for a row of its own")
    parser.add_argument("--azure", type=Path, help="a trace in Azure's format, for a row of its own")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each cell (default: %(default)s)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="names, separated by commas; default: all")
    parser.add_argument("--scenarios", default="", help="names, separated by commas; default: all")
    parser.add_argument("--out", type=Path, default=Path("placement"), help="writes OUT.md, OUT.json and OUT.png")
    return parser


def _chosen(names: str, mooncake: Path | None, azure: Path | None) -> list[Scenario]:
    traces = [None if path is None else read_trace(path) for path in (mooncake, azure)]
    scenarios = {scenario.name: scenario for scenario in [*from_traces(*traces), *MADE_UP]}
    wanted = names.split(",") if names else list(scenarios)
    for name in wanted:
        if name not in scenarios:
            raise ConfigurationError(f"There is no scenario {name!r}; there are {', '.join(scenarios)}.")
    return [scenarios[name] for name in wanted]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        policies = known_policies(args.policies.split(","))
        scenarios = _chosen(args.scenarios, args.mooncake, args.azure)
    except ConfigurationError as error:
        parser.exit(2, f"{error}\n")
    results = run_all(scenarios, policies, args.seeds)
    text = report(scenarios, results)
    print(text)
    args.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    data = {name: {p: [asdict(o) for o in outcomes] for p, outcomes in row.items()} for name, row in results.items()}
    args.out.with_suffix(".json").write_text(json.dumps(data), encoding="utf-8")
    plot(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
