"""Every command, ended by a signal at every moment of its life: `python -m tests.cluster.signal_sweep`.

Prints a row for each: the exit status, the lines on standard error, how long the end took, and how many of its
processes were left at the end of the command and a little later. Takes some minutes. Rows can be chosen: by
command, signal, or a part of the moment: `python -m tests.cluster.signal_sweep serve SIGTERM OwnServer`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.listeners import free_port
from tests.processes import marked, marked_environment

RUN_S = 120.0
WORDS = ("Interrupted.", "Terminated.")
GONE_WITHIN_S = 10.0
SIMULATED = ("--engine", "simulated", "--cpus-per-worker", "0.1")
BEFORE_RAY = ("import:cluster.cli.app", "import:actors.pool", "import:ray", "import:rich.console", "import:typer")
STARTING_RAY = (
    "before:ray:init",
    "after:ray._private.node:Node.start_gcs_server",
    "after:ray._private.node:Node.start_head_processes",
    "after:ray._private.node:Node.start_ray_processes",
    "before:ray._private.worker:connect",
    "after:ray._private.worker:connect",
    "after:ray:init",
)
OF_A_POOL = ("before:actors.launch:launch", "after:actors.pool:wait_until_ready", "before:actors.pool:_start_front")
AT_THE_END = ("before:actors.pool:Pool.close", "before:ray:shutdown", "after:ray:shutdown")
OF_A_SERVER = (
    "before:cluster.server:OwnServer._start",
    "before:ray.serve.api:start",
    "after:ray.serve.api:start",
    "after:cluster.server:OwnServer._start",
    "before:cluster.server:OwnServer._wait",
    "after:cluster.server:OwnServer._workers",
    "after:cluster.server:OwnServer._wait",
    "after:cluster.cli.serve:_say_where",
    "after:cluster.server:OwnServer.watch",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    errors: list[str]
    took_s: float


def end_at(moment: str, name: str, arguments: tuple[str, ...], mark: str) -> Ended:
    """Run a command that gets a signal at a moment of `tests.cluster.moments`."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.moments", name, moment, "--", *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=marked_environment(mark),
        start_new_session=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr.splitlines(), time.monotonic() - began_s)


def commands(folder: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Command lines, and the moments of each."""
    prompts, keys = folder / "prompts.txt", folder / "keys.yaml"
    prompts.write_text("One\nTwo\n")
    pool = STARTING_RAY + OF_A_POOL
    yield ("generate", "Hello", *SIMULATED), BEFORE_RAY + pool + AT_THE_END
    yield ("run", str(prompts), *SIMULATED), ("before:cluster.cli.run_file:read_rows", *pool[-3:], *AT_THE_END)
    yield ("models",), ("import:ray", "before:cluster.cli.listing:_row")
    yield ("version",), ("import:ray",)
    yield ("keys", "new", "alice", "--file", str(keys)), ("import:ray", "before:serve_app.edge.keys:new_key")
    yield (
        ("deploy", "cluster/serve.yaml", "--address", f"http://127.0.0.1:{free_port()}"),
        ("import:cluster.deploy", "before:cluster.deploy:load_deployment", "before:cluster.deploy:deploy"),
    )
    serve = ("serve", "--port", str(free_port()), *SIMULATED)
    yield serve, ("import:cluster.server", *STARTING_RAY[1:4], *OF_A_SERVER)


def leftover(mark: str) -> tuple[int, int]:
    """The command's processes that are there now, and those that are still there a little later."""
    at_once = len(marked(mark))
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while marked(mark) and time.monotonic() < deadline_s:
        time.sleep(0.1)  # a poll, bounded by the deadline above
    return at_once, len(marked(mark))


def _one_line_at_the_end(errors: list[str]) -> bool:
    """What a command had to say before (where it listens, how far it is) stands above."""
    return errors[-1:] in ([word] for word in WORDS) and not any("Traceback" in line for line in errors)


def main() -> None:
    wanted = sys.argv[1:]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for arguments, moments in commands(Path(folder)):
            for moment in moments:
                for name in ("SIGINT", "SIGTERM"):
                    row = f"{arguments[0]:9}{name:8}{moment}"
                    if not all(word in (arguments[0], name) or word in moment for word in wanted):
                        continue
                    mark = uuid.uuid4().hex
                    ended = end_at(moment, name, arguments, mark)
                    at_once, later = leftover(mark)
                    good = (
                        ended.status == 128 + signal.Signals[name] and _one_line_at_the_end(ended.errors) and later == 0
                    )
                    bad += not good
                    print(
                        f"{'good' if good else 'BAD ':5}{row:70} {ended.status:4} {ended.took_s:5.1f} s  "
                        f"left {at_once}, then {later}  {' | '.join(ended.errors)[-200:]}",
                        flush=True,
                    )
    print(f"{bad} bad")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
