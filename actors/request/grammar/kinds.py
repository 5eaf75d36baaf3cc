"""The kinds of grammars, how much one may cost, and how a refusal is told. No llguidance: its processes load it."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal, get_args

from actors.errors import InvalidRequest

GrammarKind = Literal["json_schema", "regex", "lark"]
KINDS: tuple[GrammarKind, ...] = get_args(GrammarKind)

MAX_GRAMMAR_CHARACTERS = 262_144
COMPACT_JSON: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written under a grammar: with exactly the separators of json.dumps. Free white space lets a small model
write spaces without end."""
COMPILE_CPU_S = 3.0
STEP_CPU_S = 0.25
"""Of processor time, so that a busy machine refuses nothing that an idle one takes. Ordinary grammars take 1 to 20 ms
and 1 ms, a schema of 3,000 properties 1 s."""
MEMORY_BYTES = 256 * 1024 * 1024
"""Of address space, beside what a process begins with."""

_MIB = MEMORY_BYTES // 1024**2
_ADVICE = "make it smaller, or use fewer patterns at once"
TOO_COSTLY = f"it takes more than {COMPILE_CPU_S:g} s or {_MIB} MiB to compile: {_ADVICE}"
TOO_COSTLY_HERE = f"it takes more than {STEP_CPU_S:g} s or {_MIB} MiB to say what may come next in this text: {_ADVICE}"

_MAX_REASON_CHARACTERS = 400
_LISTING = re.compile(r"^ *\d* *\|.*|^ *\^.*", re.MULTILINE)  # the source lines that llguidance shows below a fault


class UnusableGrammar(ValueError):
    """Says why, in words of llguidance or of Python's parser, which may go over several lines."""


def grammar_key(kind: GrammarKind, source: str) -> bytes:
    """What a grammar is remembered by."""
    return hashlib.sha256(f"{kind}:{source}".encode(errors="surrogatepass")).digest()


def require_length(source: str) -> None:
    """:raises UnusableGrammar: the grammar is too long."""
    if len(source) > MAX_GRAMMAR_CHARACTERS:
        raise UnusableGrammar(f"it is longer than {MAX_GRAMMAR_CHARACTERS} characters")


def refusal(reason: str, *, param: str, subject: str | None = None) -> InvalidRequest:
    """One sentence about a grammar that cannot be used. `subject` is what it calls the grammar, by default `param`."""
    told = " ".join(_LISTING.sub("", reason).rpartition("error: ")[2].replace("<non-verbose/>", "").split())
    if len(told) > _MAX_REASON_CHARACTERS:
        told = told[: _MAX_REASON_CHARACTERS - 3] + "..."
    return InvalidRequest(f"{subject or param} cannot be used: {told.rstrip('.')}.", param=param)
