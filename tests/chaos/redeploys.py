"""`python -m tests.chaos.redeploys`: what redeploys and deaths round Ray Serve cost those who ask meanwhile.

A cluster of its own, simulated engines, and clients that ask all the time, for streams and for whole answers, and know
what each answer must be. Prints a line per situation: requests, those that ended otherwise than without it, and the
longest time in which a client that waited heard nothing. `--only WORD...` runs the situations that have one of the
words in their name.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.deploy import DeployFailed, deploy
from tests.cluster.heads import Head, head_node, live_at
from tests.listeners import free_port
from tests.serve_app.lasting_load import LastingLoad

CLIENTS, TOKENS, LONG_TOKENS = 30, 80, 1000
SETTLED_REQUESTS = 60
BASE: dict[str, Any] = {
    "name": "sim",
    "engine": "simulated",
    "workers": 2,
    "wait_for": "all",
    "cpus_per_worker": 0.1,
    "simulated": {"step_s": 0.02},
    "fronts": {"min_replicas": 1, "max_replicas": 1},
}
DEPLOY_S = 120.0
ALONE_CPUS = 1.5
"""Two workers of it fit the four CPUs of the cluster, four do not."""


@dataclass
class Site:
    """A cluster with the application, as its administrator sees it."""

    head: Head
    port: int
    listen_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def document(self, user_config: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
        chosen = {name: value for name, value in {**BASE, **args}.items() if value is not None}
        application: dict[str, Any] = {"name": "exlpool", "import_path": "serve_app:build_app", "args": chosen}
        if user_config is not None:
            application["deployments"] = [{"name": "HttpFront", "user_config": user_config}]
        return {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "logging_config": {"log_level": "ERROR"},
            "applications": [application],
        }

    async def deploy(self, user_config: dict[str, Any] | None = None, **args: Any) -> None:
        await self.hand_over(self.document(user_config, **args))

    async def hand_over(self, document: dict[str, Any]) -> None:
        await asyncio.to_thread(
            deploy, document, self.head.dashboard, timeout_s=DEPLOY_S, report=_say_nothing, delete_others=True
        )

    async def fails(self, **args: Any) -> None:
        with contextlib.suppress(DeployFailed):
            await self.deploy(**args)

    def kill(self, part: str) -> None:
        """Kill every process of the cluster that has this in its name."""
        for process in self.head.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if command.startswith("ray::") and part in command:
                    process.send_signal(signal.SIGKILL)


def _say_nothing(*_: object) -> None:
    """What is told of a deployment's state."""


Step = Callable[[Site, LastingLoad], Awaitable[None]]


async def _killed(site: Site, load: LastingLoad, part: str, times: int = 3) -> None:
    for _ in range(times):
        site.kill(part)
        await load.answered(SETTLED_REQUESTS)
        await asyncio.sleep(3.0)


async def rolled_back(site: Site, load: LastingLoad) -> None:
    """A change for which there is no room is taken back while the pool drains."""
    alone: dict[str, Any] = {"cpus_per_worker": ALONE_CPUS}
    change = asyncio.create_task(site.fails(simulated={"step_s": 0.021}, **alone))
    await asyncio.sleep(6.0)
    await site.deploy(**alone)
    await load.answered(SETTLED_REQUESTS)
    await change


async def in_turn(site: Site, load: LastingLoad, *documents: dict[str, Any]) -> None:
    for document in documents:
        await site.deploy(**document)
        await load.answered(SETTLED_REQUESTS)


async def gave_way_in_vain(site: Site, load: LastingLoad) -> None:
    """The pool that another one takes the place of comes back when that cannot be loaded."""
    alone: dict[str, Any] = {"cpus_per_worker": ALONE_CPUS}
    await site.deploy(**alone)
    await site.fails(simulated={"fail_load": True}, **alone)
    await load.answered(SETTLED_REQUESTS)


async def wrong_settings(site: Site, load: LastingLoad) -> None:
    await site.deploy(user_config={"keys_file": "/no/such/keys.yaml"})
    await load.answered(SETTLED_REQUESTS)


async def does_not_load(site: Site, load: LastingLoad) -> None:
    await site.fails(name="other", simulated={"fail_load": True})
    await load.answered(SETTLED_REQUESTS)


async def autoscaled(site: Site, load: LastingLoad) -> None:
    await site.deploy(fronts={"min_replicas": 1, "max_replicas": 3, "target_requests": 20})
    async with LastingLoad(site.url, clients=200, tokens=TOKENS) as more:
        await more.answered(400)
    load.wrong.update(more.wrong)
    load.requests += more.requests


async def calm(_: Site, load: LastingLoad) -> None:
    await load.answered(4 * SETTLED_REQUESTS)


def _steps() -> dict[str, Step]:
    one_more = {"models": [{k: v for k, v in BASE.items() if k != "fronts"} | {"name": name} for name in ("sim", "b")]}
    alone = {"cpus_per_worker": ALONE_CPUS}
    return {
        "calm": calm,
        "1 dispatcher killed, 3 times": lambda site, load: _killed(site, load, "Dispatcher"),
        "2 wrong user_config": wrong_settings,
        "4 other model that does not load": does_not_load,
        "5 rolled back during a drain": rolled_back,
        "6 changed, room for both": lambda s, load: in_turn(s, load, {"workers": 3}),
        "6 changed, room for one": lambda s, load: in_turn(s, load, alone, {"simulated": {"step_s": 0.021}, **alone}),
        "6 changed, room for one, in vain": gave_way_in_vain,
        "7 user_config and back": lambda s, load: in_turn(s, load, {"user_config": {"max_headers": 50}}, {}),
        "9 keeper killed, 3 times": lambda site, load: _killed(site, load, "PoolHolder"),
        "same file twice": lambda s, load: in_turn(s, load, {}, {}),
        "other settings of the front": lambda s, load: in_turn(s, load, {"max_choices": 7}),
        "more fronts, then fewer": lambda s, load: in_turn(
            s, load, {"fronts": {"min_replicas": 3, "max_replicas": 3}}, {}
        ),
        "a model more, then one less": lambda s, load: in_turn(s, load, _without_top(one_more), {}),
        "owner killed, 3 times": lambda site, load: _killed(site, load, "PoolOwner"),
        "controller killed": lambda site, load: _killed(site, load, "ServeController", times=1),
        "autoscaled under 200 clients": autoscaled,
        "front killed, of two": front_killed,
    }


def _without_top(models: dict[str, Any]) -> dict[str, Any]:
    """`models` cannot stand beside the settings of one model."""
    return {name: None for name in BASE if name != "fronts"} | models


async def front_killed(site: Site, load: LastingLoad) -> None:
    """Its own streams end with it, by nature."""
    await site.deploy(fronts={"min_replicas": 2, "max_replicas": 2})
    await load.answered(SETTLED_REQUESTS)
    fronts = [
        process for process in site.head.process.children(recursive=True) if "HttpFront" in " ".join(process.cmdline())
    ]
    fronts[0].kill()
    await load.answered(SETTLED_REQUESTS)


async def _measure(site: Site, name: str, step: Step, url: str = "") -> bool:
    load = LastingLoad(url or site.url, clients=CLIENTS, tokens=TOKENS)
    started_s = time.monotonic()
    failure = ""
    async with load:
        await load.answered(SETTLED_REQUESTS)
        try:
            await step(site, load)
        except Exception as error:  # noqa: BLE001 - told in the table, and the next situation begins
            failure = f"{type(error).__name__}: {error}"
    return _tell(name, load, started_s, failure)


def _tell(name: str, load: LastingLoad, started_s: float, failure: str = "") -> bool:
    ended = [f"{count} {how}" for how, count in load.wrong.most_common()] + [failure] * bool(failure)
    numbers = f"{load.requests:8} {load.wrong.total():9} {load.longest_gap_s:8.2f} {time.monotonic() - started_s:6.0f}"
    print(f"{name:34} {numbers}  {', '.join(ended) or '-'}", flush=True)
    return not ended


async def _listened(site: Site) -> bool:
    """8: the front's own listener, whose replicas come and go."""
    own = {"listen": {"port": site.listen_port}}
    await site.deploy(**own)
    return await _measure(
        site,
        "8 own listener, redeployed twice",
        lambda s, load: in_turn(s, load, {"max_choices": 7, **own}, {"max_choices": 8, **own}),
        f"http://127.0.0.1:{site.listen_port}",
    )


async def _taken_away(site: Site, name: str, document: dict[str, Any]) -> bool:
    """3: what runs when its model is taken away ends first. What is asked later is refused, so nobody asks."""
    await site.deploy()
    started_s = time.monotonic()
    async with LastingLoad(site.url, clients=CLIENTS, tokens=LONG_TOKENS, once=True) as load:
        async with asyncio.timeout(DEPLOY_S):
            while not load.longest_gap_s:  # something was heard
                await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)  # the others follow
        await site.hand_over(document)
    return _tell(name, load, started_s)


async def main(only: list[str]) -> bool:
    print(f"{'situation':34} {'requests':>8} {'otherwise':>9} {'gap s':>8} {'took s':>6}  how they ended", flush=True)
    mark, folder = f"redeploys-{os.getpid()}", Path(tempfile.gettempdir()) / f"ray-{os.getpid()}"
    fine = True
    with head_node(mark, folder) as head, pytest.MonkeyPatch.context() as patch:
        live_at(head.home, patch)
        site = Site(head, free_port(), free_port())
        for name, step in _steps().items():
            if any(word in name for word in only):
                await site.deploy()
                fine &= await _measure(site, name, step)
        if any(word in "8 own listener" for word in only):
            fine &= await _listened(site)
        if any(word in "3 model renamed, application deleted" for word in only):
            fine &= await _taken_away(site, "3 model renamed", site.document(name="other"))
            fine &= await _taken_away(site, "3 application deleted", {**site.document(), "applications": []})
    return fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.redeploys", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    sys.exit(0 if asyncio.run(main(parser.parse_args().only)) else 1)
