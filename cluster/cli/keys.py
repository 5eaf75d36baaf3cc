"""`exlpool keys`: the API keys of a server, in the file that its setting `keys_file` names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.errors import ConfigurationError
from cluster.cli import options as opt
from cluster.cli.console import errors

if TYPE_CHECKING:
    from serve_app.edge.keys import KeyEntry, KeyRing

LINE_CHARACTERS = 1000
"""Rows are never wrapped, so that scripts can read them line by line."""

keys_app = typer.Typer(help="API keys.", no_args_is_help=True)

_FILE_NAMES = ("--keys-file", "--file")
KeysFile = Annotated[Path, typer.Option(*_FILE_NAMES, help="The file of hashed keys.")]


@keys_app.command("new")
def new_key(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    weight: Annotated[
        float | None, typer.Option(help="Share of the pool beside others who wait; none: as the tenant's others, or 1.")
    ] = None,
    max_priority: Annotated[str | None, typer.Option(help="Best class: interactive, default or batch.")] = None,
    requests_per_minute: Annotated[float | None, typer.Option(help="Bound on requests.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Bound on tokens, in and out.")] = None,
    file: Annotated[Path | None, typer.Option(*_FILE_NAMES, help="Add the line to this file.")] = None,
) -> None:
    """Make a key: it is printed once, and only its hash is kept."""
    from serve_app.edge.keys import new_entry
    from serve_app.edge.keys import new_key as make
    from serve_app.edge.keys_changes import add_key

    key = make()
    entry = new_entry(
        key,
        tenant,
        **opt.given(
            weight=weight,
            max_priority=max_priority,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        ),
    )
    if file is not None:
        entry = add_key(file, entry)
    print(key)
    where = "To the keys file, add" if file is None else f"Added to {file}"
    _say(f"The key is above; it is shown this once. {where}:")
    _say(entry.line)


@keys_app.command("list")
def list_keys(*, file: KeysFile) -> None:
    """Show whose keys a file holds, and what each may do."""
    from serve_app.edge.keys_file import load_keys

    entries = load_keys(file).entries
    Console(width=LINE_CHARACTERS).print(_table(entries))
    if not entries:
        _say(f"{file} holds no key: a server with it refuses everybody.")


@keys_app.command("revoke")
def revoke(
    fingerprint: Annotated[
        str | None, typer.Argument(help="Which key: what `exlpool keys list` shows, a beginning of it, or the key.")
    ] = None,
    *,
    tenant: Annotated[str | None, typer.Option(help="All keys of this tenant, instead of one.")] = None,
    file: KeysFile,
) -> None:
    """Take a key, or all of a tenant's, out of a file. A server that runs refuses them within seconds."""
    from serve_app.edge.keys_changes import key_of_fingerprint, keys_of_tenant, revoke_keys

    def choose(keys: KeyRing) -> Collection[KeyEntry]:
        if fingerprint is not None and tenant is None:
            return [key_of_fingerprint(keys, fingerprint)]
        if tenant is not None and fingerprint is None:
            return keys_of_tenant(keys, tenant)
        raise ConfigurationError("Name a fingerprint or a --tenant, one of the two.", param="fingerprint")

    for entry in revoke_keys(file, choose):
        print(f"Revoked {entry.fingerprint} of {_shown(entry.tenant)}")


def _table(entries: Collection[KeyEntry]) -> Table:
    """With a column for what at least one key has set."""
    table = Table(box=None, pad_edge=False)
    names = ["fingerprint", "tenant", "weight", "max_priority", "requests_per_minute", "tokens_per_minute"]
    names = names[:4] + [name for name in names[4:] if any(getattr(entry, name) is not None for entry in entries)]
    for name in names:
        table.add_column(name, no_wrap=True)
    for entry in entries:
        table.add_row(*(Text(_shown(getattr(entry, name))) for name in names))
    return table


def _shown(value: object) -> str:
    """As in the file; nothing that a terminal would take for a command."""
    if isinstance(value, float):
        return f"{value:.15g}"
    text = "-" if value is None else str(value)
    return text if text.isprintable() else repr(text)


def _say(message: str) -> None:
    errors.print(message, highlight=False, markup=False, soft_wrap=True)
