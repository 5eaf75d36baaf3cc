"""Results of a comparison as Markdown tables and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from actors.scheduling.simulator.intervals import interval
from actors.scheduling.simulator.metrics import Outcome

Results = dict[str, dict[str, list[Outcome]]]
"""Outcomes by scenario and policy, one per seed."""


def goodput_table(results: Results) -> str:
    """Markdown: goodput in % of all requests. Bold: best of the row, or within its interval."""
    policies = list(next(iter(results.values())))
    lines = ["| scenario | " + " | ".join(f"`{p}`" for p in policies) + " |", "|---" * (len(policies) + 1) + "|"]
    for name, row in results.items():
        cells = {policy: interval([o.goodput for o in outcomes]) for policy, outcomes in row.items()}
        best = max(cells.values(), key=lambda cell: cell.mean)
        shown = [f"**{c}**" if not c.mean < best.mean - best.half else str(c) for c in cells.values()]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    overall = [f"{100 * fmean(o.goodput for row in results.values() for o in row[p]):.1f}" for p in policies]
    top = max(overall, key=float)
    lines.append("| **all** | " + " | ".join(f"**{v}**" if v == top else v for v in overall) + " |")
    return "\n".join(lines)


def verdict_table(results: Results, policy: str = "cost") -> str:
    """Markdown: a policy beside the best other of each row, and their difference seed by seed, which leaves out what
    makes seeds differ for all."""
    lines = [f"| scenario | `{policy}` | best other | difference, points |", "|---|---|---|---|"]
    for name, row in results.items():
        goodput = {p: [o.goodput for o in outcomes] for p, outcomes in row.items()}
        other = max((p for p in goodput if p != policy), key=lambda p: fmean(goodput[p]))
        pairs = zip(goodput[policy], goodput[other], strict=True)
        difference = interval([mine - others for mine, others in pairs])
        sign = "+" if difference.mean > 0 else ""
        lines.append(
            f"| {name} | {interval(goodput[policy])} | `{other}` {interval(goodput[other])} | {sign}{difference} |"
        )
    return "\n".join(lines)


def tenant_table(results: Results, scenario: str, heavy: str = "heavy") -> str:
    """Markdown: what a tenant that sends most and the others get, in %, means over seeds."""
    lines = [
        "| policy | goodput of the heavy tenant | of the others | heavy tenant's share of service |",
        "|---|---|---|---|",
    ]
    for policy, outcomes in results[scenario].items():
        own = [100 * o.tenants[heavy].goodput for o in outcomes]
        others = [100 * _others_goodput(o, heavy) for o in outcomes]
        service = [100 * o.tenants[heavy].service for o in outcomes]
        lines.append(f"| `{policy}` | {fmean(own):.1f} | {fmean(others):.1f} | {fmean(service):.1f} |")
    return "\n".join(lines)


def _others_goodput(outcome: Outcome, heavy: str) -> float:
    others = [group for name, group in outcome.tenants.items() if name != heavy]
    return sum(g.goodput * g.requests for g in others) / sum(g.requests for g in others)


_DETAILS: tuple[tuple[str, Callable[[Outcome], float | None]], ...] = (
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
    ("wait error s", lambda o: None if o.wait_error_s is None else o.wait_error_s.mean),
    ("decision µs p50", lambda o: None if o.decision_us is None else o.decision_us.p50),
)


def detail_tables(results: Results) -> str:
    """Markdown: the other figures, a table per scenario, means over seeds."""
    parts = []
    for name, row in results.items():
        lines = [f"### {name}", "", "| policy | " + " | ".join(title for title, _ in _DETAILS) + " |"]
        lines.append("|---" * (len(_DETAILS) + 1) + "|")
        for policy, outcomes in row.items():
            cells = [mean_cell([value(o) for o in outcomes]) for _, value in _DETAILS]
            lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def mean_cell(values: Sequence[float | None]) -> str:
    """The mean of what was measured, or a dash."""
    measured = [value for value in values if value is not None]
    return f"{fmean(measured):.2f}" if measured else "–"


def plot(results: Results, path: Path, highlighted: str = "cost") -> None:
    """Goodput as a picture: a line of dots per scenario, one for each policy, with its interval."""
    import matplotlib as mpl  # not needed to simulate
    from matplotlib.figure import Figure

    policies = list(next(iter(results.values())))
    colours = mpl.colormaps["tab20"]
    figure = Figure(figsize=(11, 0.55 * len(results) + 1.6), layout="constrained")
    axes = figure.subplots()
    for number, policy in enumerate(policies):
        cells = [interval([100 * o.goodput for o in row[policy]]) for row in results.values()]
        shift = 0.7 * (number / len(policies) - 0.5)
        axes.errorbar(
            [cell.mean for cell in cells],
            [row + shift for row in range(len(cells))],
            xerr=[0.0 if cell.half != cell.half else cell.half for cell in cells],
            label=policy,
            fmt="D" if policy == highlighted else "o",
            color="black" if policy == highlighted else colours(number % 20),
            ms=7 if policy == highlighted else 4.5,
            elinewidth=0.8,
        )
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.grid(axis="x", lw=0.3)
    axes.set_xlabel("goodput: % of requests that met both service levels, mean and 95 % interval")
    figure.legend(ncols=5, fontsize=8, loc="outside upper center")
    figure.savefig(path, dpi=110)
