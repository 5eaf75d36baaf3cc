"""The commands of `exlpool`. Results go to standard output, everything else to standard error.

Exit status: 0 all went well, 1 some requests or models were bad, 2 nothing could be done, 130 interrupted (SIGINT), 143
terminated (SIGTERM).
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from ray.exceptions import RayError

from actors import ExlpoolError
from actors.ray_failures import plain_reason
from actors.version import package_version
from actors.wording import value_told
from cluster.cli import config, doctor, members, serve, up
from cluster.cli import options as opt
from cluster.cli.console import complain, errors, loading
from cluster.cli.listing import describe_models
from cluster.cli.run_file import Format, run_file
from cluster.cli.sources import read_prompt

INTERRUPTED = 130
STANDARD_INPUT = "-"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(package_version())
        raise typer.Exit


app = typer.Typer(
    name="exlpool",
    help="One pool of text generators out of many ExLlamaV2 models, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """One pool of text generators out of many ExLlamaV2 models, on Ray."""


@app.command()
@opt.with_option_groups
def generate(
    prompt: Annotated[
        str, typer.Argument(help="Text to continue, or with --chat a message to answer; -: standard input.")
    ],
    *,
    chat: Annotated[bool, typer.Option("--chat", help="Use the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    pool: opt.PoolOptions,
    sampling: opt.SamplingOptions,
) -> None:
    """Stream one completion to the terminal."""
    settings, chosen = pool.settings(), sampling.settings()
    if prompt == STANDARD_INPUT:
        prompt = read_prompt()
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    with loading() as progress, opt.opened_pool(pool, settings, progress) as started:
        progress.done()
        for delta in started.stream(messages if chat or system is not None else prompt, **chosen):
            print(delta.text, end="", flush=True)
    print()


@app.command()
@opt.with_option_groups
def run(
    prompts: Annotated[
        Path, typer.Argument(help="Text file with a prompt per line, or JSON Lines (.jsonl); -: standard input.")
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="JSON Lines file for the results; -: standard output; none: print the texts."),
    ] = None,
    *,
    jsonl: Annotated[
        bool | None, typer.Option("--jsonl/--text", help="What the lines are; none: as the file's name says.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Every plain prompt is a message to answer.")] = False,
    pool: opt.PoolOptions,
    sampling: opt.SamplingOptions,
) -> None:
    """Run a file of prompts through a pool, with a live progress bar and a summary."""
    settings, chosen, form = pool.settings(), sampling.settings(), Format(jsonl=jsonl, chat=chat)
    failed = run_file(prompts, out, partial(opt.opened_pool, pool, settings), form=form, sampling=chosen)
    raise typer.Exit(1 if failed else 0)


@app.command()
def models(
    directories: Annotated[
        list[Path] | None, typer.Argument(help="Model directories, or folders that hold some; none: the built-in.")
    ] = None,
) -> None:
    """Say what model directories hold, and which engine would run them here."""
    all_good = describe_models(directories or [])
    raise typer.Exit(0 if all_good else 1)


@app.command()
def version() -> None:
    """Print the version."""
    print(package_version())


serve.register(app)
config.register(app)
up.register(app)
members.register(app)
doctor.register(app)


def main() -> None:
    """Run the command line; every foreseen failure is one sentence on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a text may hold what the terminal's encoding does not
    try:
        status = app(standalone_mode=False)
    except ExlpoolError as error:
        complain(error.message)
        status = 2
    except RayError as error:
        complain(f"The Ray cluster failed, or went away: {plain_reason(error)}")
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # what the command line itself finds wrong with its arguments
        if show is None:
            raise
        if isinstance(error.__cause__, ValidationError) and hasattr(error, "message"):
            error.message = value_told(error.__cause__)
        show()
        status = 2
    if status == INTERRUPTED:
        errors.print("Interrupted.")
    sys.exit(status if isinstance(status, int) else 0)
