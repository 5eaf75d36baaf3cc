"""`exlpool serve`, `exlpool deploy`: models behind HTTP."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from actors.wording import setting_error
from cluster.cli import options as opt
from cluster.cli.console import errors, loading
from cluster.cli.keys import keys_app
from cluster.cli.settings import serve_settings

if TYPE_CHECKING:
    from cluster.config import HttpConfig
    from cluster.server import OwnServer
    from serve_app.config import ListenConfig, ServeConfig

WATCH_INTERVAL_S = 5.0
DEFAULT_DASHBOARD = "http://127.0.0.1:8265"

ServeFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings; options go before it.")]
Name = Annotated[str | None, typer.Option(help="Name by which clients ask for the model; none: its directory's.")]
Host = Annotated[
    str | None,
    typer.Option(help="IP address to listen on, none: 127.0.0.1; other than this machine's own needs keys."),
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port to listen on; none: 8000.")]
Certificate = Annotated[Path | None, typer.Option(help="PEM file with the server's certificate; none: no TLS.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file with the private key of the certificate.")]
KeysFile = Annotated[Path | None, typer.Option(help="File of hashed API keys; none: no key is needed.")]
Origins = Annotated[list[str] | None, typer.Option("--cors-origin", help="Web page that may ask; several times.")]
Strangers = Annotated[bool, typer.Option("--remote-without-keys", help="Serve other machines without any key.")]
LogContent = Annotated[bool, typer.Option("--log-content", help="Log what is asked and answered.")]


@opt.with_option_groups
def serve(
    *,
    name: Name = None,
    workers: opt.WorkerOptions,
    host: Host = None,
    port: Port = None,
    tls_certificate: Certificate = None,
    tls_key: TlsKey = None,
    keys_file: KeysFile = None,
    cors_origin: Origins = None,
    remote_without_keys: Strangers = False,
    log_content: LogContent = False,
    config: ServeFile = None,
    address: opt.Address = None,
) -> None:
    """Serve models on this machine through an OpenAI-compatible API, until Ctrl-C."""
    from cluster.server import OwnServer

    chosen = opt.given(
        workers,
        name=name,
        keys_file=keys_file,
        cors_origins=cors_origin,
        remote_without_keys=remote_without_keys or None,
        log_content=log_content or None,
    )
    settings, http = serve_settings(config, chosen)
    listen = _listen(settings, http, host=host, port=port, tls_certificate=tls_certificate, tls_key=tls_key)
    with contextlib.ExitStack() as stack:
        with loading() as progress:
            server = OwnServer(settings, listen=listen, address=address, progress=progress)
            stack.enter_context(server)
        _say_where(server, settings)
        while True:
            time.sleep(WATCH_INTERVAL_S)  # until a signal, or until there is nothing left to serve with
            server.watch()


def _listen(settings: ServeConfig, http: HttpConfig, **chosen: Any) -> ListenConfig:
    """Where to listen: what the file and the command line say together; the latter wins.

    :raises ConfigurationError: in one sentence what is wrong.
    """
    from serve_app.config import ListenConfig

    from_file = {"host": http.host, "port": http.port} if settings.listen is None else settings.listen.model_dump()
    try:
        return ListenConfig(**{**from_file, **opt.given(**chosen)})
    except ValidationError as error:
        raise setting_error(error, ListenConfig) from None


def deploy(
    file: Annotated[Path, typer.Argument(help="Configuration for Ray Serve, such as cluster/serve.yaml.")],
    *,
    address: Annotated[
        str | None,
        typer.Option(
            help='Dashboard of the cluster, "auto": of the one on this machine; none: RAY_DASHBOARD_ADDRESS, else '
            "http://127.0.0.1:8265."
        ),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Time that the applications have to start.")] = 1800.0,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the file is right.")] = False,
    delete_others: Annotated[
        bool, typer.Option("--delete-others", help="End applications that run and are not in the file.")
    ] = False,
) -> None:
    """Deploy a Serve configuration to a cluster, and wait until it runs."""
    from cluster.dashboard import dashboard_url
    from cluster.deploy import deploy as carry_out
    from cluster.deploy import load_deployment

    document = load_deployment(file)
    if check:
        errors.print(f"{file} is right.", highlight=False)
        return
    target = dashboard_url(address or os.environ.get("RAY_DASHBOARD_ADDRESS") or DEFAULT_DASHBOARD)
    with errors.status(f"Deploying to {target}"):
        carry_out(
            document,
            target,
            timeout_s=timeout_s,
            delete_others=delete_others,
            report=lambda name, status: errors.print(f"{name}: {status}", highlight=False),
        )


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(deploy)
    app.add_typer(keys_app, name="keys")


def _say_where(server: OwnServer, settings: ServeConfig) -> None:
    first, url = settings.models[0].name, server.url
    key = ' \\\n  -H "Authorization: Bearer $KEY"' if settings.keys_file is not None else ""
    if server.chats(first):
        path, prompt = "chat/completions", '"messages": [{"role": "user", "content": "Hello!"}]'
    else:
        path, prompt = "completions", '"prompt": "Once upon a time,"'
    body = f'{{"model": "{first}", "stream": true, {prompt}}}'
    example = f"curl -N {url}/v1/{path}{key} \\\n  -H 'Content-Type: application/json' -d '{body}'"
    names = _listed([model.name for model in settings.models])
    print(url, flush=True)
    errors.print(
        f"Serving {names} at {url}/v1, until Ctrl-C. For example:", highlight=False, markup=False, soft_wrap=True
    )
    errors.print(example, highlight=False, markup=False, soft_wrap=True)


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
