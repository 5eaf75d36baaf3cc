"""`exlpool serve`, `exlpool deploy`: models behind HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from actors.config import read_settings
from cluster.cli import options as opt
from cluster.cli.console import errors, loading
from cluster.cli.keys import keys_app

WATCH_INTERVAL_S = 5.0
DEFAULT_DASHBOARD = "http://127.0.0.1:8265"

ServeFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings; options go before it.")]
Name = Annotated[str | None, typer.Option(help="Name by which clients ask for the model; none: its directory's.")]
Host = Annotated[str, typer.Option(help="IP address to listen on; other than this machine's own needs keys.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")]
KeysFile = Annotated[Path | None, typer.Option(help="File of hashed API keys; none: no key is needed.")]
Origins = Annotated[list[str] | None, typer.Option("--cors-origin", help="Web page that may ask; several times.")]
Strangers = Annotated[bool, typer.Option("--remote-without-keys", help="Serve other machines without any key.")]
LogContent = Annotated[bool, typer.Option("--log-content", help="Log what is asked and answered.")]


@opt.with_option_groups
def serve(
    *,
    name: Name = None,
    workers: opt.WorkerOptions,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys_file: KeysFile = None,
    cors_origin: Origins = None,
    remote_without_keys: Strangers = False,
    log_content: LogContent = False,
    config: ServeFile = None,
    address: opt.Address = None,
) -> None:
    """Serve models on this machine through an OpenAI-compatible API, until Ctrl-C."""
    from cluster.server import OwnServer
    from serve_app.config import serve_config

    given = opt.given(
        workers,
        name=name,
        keys_file=keys_file,
        cors_origins=cors_origin,
        remote_without_keys=remote_without_keys or None,
        log_content=log_content or None,
    )
    settings = serve_config(**{**({} if config is None else read_settings(config)), **given})
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.ExitStack() as stack:
        with loading() as progress:
            server = OwnServer(settings, host=host, port=port, address=address, progress=progress)
            stack.enter_context(server)
        # Nothing is left behind, however often somebody presses Ctrl-C.
        stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        _say_where(server.url, settings.models[0].name, keys=settings.keys_file is not None)
        try:
            signal.signal(signal.SIGTERM, _interrupt)  # again: Ray has put its own handler there
            while True:
                time.sleep(WATCH_INTERVAL_S)  # until Ctrl-C, or until there is nothing left to serve with
                server.watch()
        except KeyboardInterrupt:
            errors.print("Stopping.")


def deploy(
    file: Annotated[Path, typer.Argument(help="Configuration for Ray Serve, such as cluster/serve.yaml.")],
    *,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of the cluster; none: RAY_DASHBOARD_ADDRESS, else this machine's.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Time that the applications have to start.")] = 1800.0,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the file is right.")] = False,
) -> None:
    """Deploy a Serve configuration to a cluster, and wait until it runs."""
    from cluster.deploy import deploy as carry_out
    from cluster.deploy import load_deployment

    document = load_deployment(file)
    if check:
        errors.print(f"{file} is right.", highlight=False)
        return
    target = address or os.environ.get("RAY_DASHBOARD_ADDRESS") or DEFAULT_DASHBOARD
    with errors.status(f"Deploying to {target}"):
        carry_out(
            document,
            target,
            timeout_s=timeout_s,
            report=lambda name, status: errors.print(f"{name}: {status}", highlight=False),
        )


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(deploy)
    app.add_typer(keys_app, name="keys")


def _say_where(url: str, model: str, *, keys: bool) -> None:
    key = ' \\\n  -H "Authorization: Bearer $KEY"' if keys else ""
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    example = f"curl -N {url}/v1/chat/completions{key} \\\n  -H 'Content-Type: application/json' -d '{body}'"
    print(url, flush=True)
    errors.print(f"Serving {model} at {url}/v1, until Ctrl-C. For example:", highlight=False, markup=False)
    errors.print(example, highlight=False, markup=False, soft_wrap=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
