"""The command line of the simulator: what its options mean, and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from actors.errors import ConfigurationError
from actors.results import Priority
from actors.scheduling.simulator.loop import Death, Pool
from actors.scheduling.simulator.metrics import Slo
from actors.scheduling.simulator.run import POLICY_NAMES, known_policies
from actors.scheduling.simulator.workers import WorkerSpec

WORKLOADS = ("chat", "hot-prefix", "heavy-tail", "independent")

_T = TypeVar("_T")

_DESCRIPTION = """Replays requests in virtual time through the real scheduler, or through a competing router, and tells
how they were served. The requests come from a recorded TRACE or are made up (--generate). The workers follow
ExLlamaV2's page rules; nobody is told their speeds, which are learned from reports that come late."""
_EPILOGUE = """policies of this scheduler: cost, lmetric, power_of_two, least_requests, round_robin. Competing routers:
see actors/scheduling/simulator/baselines.py. Example: python -m actors.scheduling.simulator --generate chat --rate 25
--workers 8 --speeds 1,1,0.5,0.5 --policy cost,dynamo,round_robin_router --seeds 3"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that a run depends on."""

    trace: Path | None
    workload: str | None
    requests: int
    rate: float | None
    burstiness: float
    max_prompt_tokens: int
    max_output_tokens: int
    max_new_tokens: int
    policies: tuple[str, ...]
    pool: Pool
    tenants: dict[str, float]
    classes: dict[Priority, float]
    slo: Slo
    max_wait_s: float | None
    seeds: int
    json: Path | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage."""
        self.exit(2, f"{message[:1].upper()}{message[1:].removesuffix('.')}. See --help.\n")


def _at_least(kind: Callable[[str], _T], low: _T) -> Callable[[str], _T]:
    def read(text: str) -> _T:
        value = kind(text)
        if not value >= low:  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {text}")
        return value

    read.__name__ = "number"  # argparse names it when the text is none
    return read


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


_above_zero.__name__ = "number"


def _speeds(text: str) -> tuple[float, ...]:
    try:
        return tuple(_above_zero(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers above 0 with commas between them, not {text!r}") from None


def _shares(text: str) -> dict[str, float]:
    """NAME=SHARE,NAME=SHARE"""
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = _above_zero(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be NAME=SHARE, with commas between them, not {text!r}") from None
    return shares


def _death(text: str) -> Death:
    """SECONDS:WORKER or SECONDS:WORKER:RESTART_SECONDS"""
    parts = text.split(":")
    try:
        at_s, index, restart_s = float(parts[0]), int(parts[1]), float(parts[2]) if len(parts) > 2 else 20.0
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(f"must be SECONDS:WORKER or SECONDS:WORKER:RESTART, not {text!r}") from None
    if len(parts) > 3 or not at_s >= 0 or index < 0 or not restart_s > 0:
        raise argparse.ArgumentTypeError(f"must be SECONDS:WORKER or SECONDS:WORKER:RESTART, not {text!r}")
    return Death(at_s=at_s, index=index, restart_s=restart_s)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m actors.scheduling.simulator", description=_DESCRIPTION, epilog=_EPILOGUE)
    count, amount = _at_least(int, 1), _at_least(float, 0.0)

    load = parser.add_argument_group("requests")
    load.add_argument("trace", nargs="?", type=Path, metavar="TRACE", help="Mooncake JSON lines or Azure CSV; .gz, .xz")
    load.add_argument("--generate", choices=WORKLOADS, help="make requests up instead of reading a trace")
    load.add_argument("--requests", type=count, default=1000, help="how many, of a trace from a random point on (1000)")
    load.add_argument("--rate", type=_above_zero, help="mean requests/s (a trace: its own clock; made-up ones: 10)")
    load.add_argument("--burstiness", type=_above_zero, default=1.0, help="shape of Gamma arrivals: 1 is Poisson (1)")
    load.add_argument("--max-prompt-tokens", type=count, default=16_384, help="cut a trace's prompts (16384)")
    load.add_argument("--max-output-tokens", type=count, default=1024, help="cut a trace's outputs (1024)")
    load.add_argument("--max-new-tokens", type=count, default=1024, help="what a trace's requests ask for (1024)")
    load.add_argument("--tenants", type=_shares, default={}, metavar="NAME=SHARE,…", help="who sends, by lot")
    load.add_argument("--classes", type=_shares, default={}, metavar="NAME=SHARE,…", help="interactive, default, batch")

    pool = parser.add_argument_group("workers")
    pool.add_argument("--workers", type=count, default=8, help="how many (8)")
    pool.add_argument("--speeds", type=_speeds, default=(1.0,), metavar="S,…", help="relative, repeated as needed (1)")
    pool.add_argument("--pages", type=count, default=512, help="cache of each, in pages of 256 tokens (512)")
    pool.add_argument("--slots", type=count, default=24, help="sequences that each decodes at once (24)")
    pool.add_argument("--report-lag-ms", type=amount, default=20.0, help="from a step's end to its report (20)")
    pool.add_argument("--grant-lag-ms", type=amount, default=2.0, help="from a decision to the worker (2)")
    pool.add_argument(
        "--death",
        type=_death,
        action="append",
        default=[],
        metavar="SECONDS:WORKER[:RESTART]",
        help="kill a worker; it is back after RESTART seconds (20); may be given several times",
    )

    run = parser.add_argument_group("the run")
    run.add_argument("--policy", action="append", metavar="NAME,…", help=f"{', '.join(POLICY_NAMES)} (cost)")
    run.add_argument("--ttft", type=_above_zero, default=2.0, help="service level: seconds to the first token (2)")
    run.add_argument("--tpot-ms", type=_above_zero, default=75.0, help="service level: ms per further token (75)")
    run.add_argument("--max-wait", type=_above_zero, help="the scheduler refuses longer waits (0.75 x --ttft)")
    run.add_argument("--seeds", type=count, default=1, help="runs of each policy (1)")
    run.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    run.add_argument("--json", type=Path, help="write all figures of all runs here")
    return parser


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line. Ends the process, with one sentence, when it makes no sense."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if (args.trace is None) == (args.generate is None):
        parser.error("give either a TRACE or --generate")
    try:
        policies = known_policies([name for names in args.policy or ["cost"] for name in names.split(",")])
        classes = {Priority(name): share for name, share in args.classes.items()}
    except ConfigurationError as error:
        parser.error(error.message)
    except ValueError:
        parser.error("the classes are interactive, default and batch")
    for death in args.death:
        if death.index >= args.workers:
            parser.error(f"worker {death.index} cannot die: there are {args.workers}, from 0 on")
    spec = WorkerSpec(total_pages=args.pages, max_batch_size=args.slots)
    speeds = [args.speeds[index % len(args.speeds)] for index in range(args.workers)]
    return Options(
        trace=args.trace,
        workload=args.generate,
        requests=args.requests,
        rate=args.rate,
        burstiness=args.burstiness,
        max_prompt_tokens=args.max_prompt_tokens,
        max_output_tokens=args.max_output_tokens,
        max_new_tokens=args.max_new_tokens,
        policies=policies,
        pool=Pool(
            workers=tuple(spec.at_speed(speed) for speed in speeds),
            report_lag_s=args.report_lag_ms / 1000,
            grant_lag_s=args.grant_lag_ms / 1000,
            deaths=tuple(args.death),
            seed=args.seed,
        ),
        tenants=args.tenants,
        classes=classes,
        slo=Slo(ttft_s=args.ttft, tpot_s=args.tpot_ms / 1000),
        max_wait_s=args.max_wait,
        seeds=args.seeds,
        json=args.json,
    )
