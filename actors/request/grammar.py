"""Grammars that a completion may be held to: their kinds and bounds, how they become llguidance's own, and whether one
can be used at all.

An engine compiles a grammar for its own tokenizer when the request has a place; a fault that is found there comes after
the response may have begun. So an API checks it before, without a tokenizer: both build the grammar here, and so both
refuse the same, with the same words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal

from llguidance import LLMatcher, LLParserLimits

from actors.errors import InvalidRequest

GrammarKind = Literal["json_schema", "regex", "lark"]

MAX_GRAMMAR_CHARACTERS = 262_144
MAX_CACHED = 1024
COMPACT_JSON: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written under a grammar: with exactly the separators of json.dumps. Free white space lets a small model
write spaces without end."""
LIMITS = LLParserLimits(verbose_errors=False)

_MAX_REASON_CHARACTERS = 400
_LISTING = re.compile(r"^ *\d* *\|.*|^ *\^.*", re.MULTILINE)  # the source lines that llguidance shows below a fault

_faults: OrderedDict[bytes, str] = OrderedDict()
"""Why a grammar was refused, by its hash; empty: it was not."""
_lock = Lock()


class UnusableGrammar(ValueError):
    """Says why, in words of llguidance or of Python's parser, which may go over several lines."""


def llguidance_grammar(kind: GrammarKind, source: str) -> str:
    """The grammar as llguidance's matchers take it; they may still refuse it.

    :raises UnusableGrammar: it is too long, no text, or no JSON.
    """
    if len(source) > MAX_GRAMMAR_CHARACTERS:
        raise UnusableGrammar(f"it is longer than {MAX_GRAMMAR_CHARACTERS} characters")
    try:
        return _GRAMMARS[kind](source)
    except UnicodeEncodeError:
        raise UnusableGrammar("it holds half a surrogate pair, which is not valid text") from None
    except (ValueError, RecursionError) as error:
        raise UnusableGrammar(str(error)) from None


def refusal(reason: str, *, param: str, subject: str | None = None) -> InvalidRequest:
    """One sentence about a grammar that cannot be used. `subject` is what it calls the grammar, by default `param`."""
    told = " ".join(_LISTING.sub("", reason).rpartition("error: ")[2].replace("<non-verbose/>", "").split())
    if len(told) > _MAX_REASON_CHARACTERS:
        told = told[: _MAX_REASON_CHARACTERS - 3] + "..."
    return InvalidRequest(f"{subject or param} cannot be used: {told.rstrip('.')}.", param=param)


def check_grammar(kind: GrammarKind, source: str, *, param: str, subject: str | None = None) -> None:
    """Refuse a grammar that no engine could compile. `subject` is what the message calls it, by default `param`.

    The first check of a very large grammar may take a second, so call it off an event loop when the source is long;
    after that the answer is remembered. Safe from several threads.

    :raises InvalidRequest: it cannot be used; the message says why.
    """
    fault = _remembered_fault(kind, source)
    if fault:
        raise refusal(fault, param=param, subject=subject)


def _remembered_fault(kind: GrammarKind, source: str) -> str:
    key = hashlib.sha256(f"{kind}:{source}".encode(errors="surrogatepass")).digest()
    with _lock:
        known = _faults.get(key)
        if known is not None:
            _faults.move_to_end(key)
            return known
    fault = _fault(kind, source)
    with _lock:
        _faults[key] = fault
        if len(_faults) > MAX_CACHED:
            _faults.popitem(last=False)
    return fault


def _fault(kind: GrammarKind, source: str) -> str:
    """Why a grammar cannot be used; empty: it can."""
    try:
        grammar = llguidance_grammar(kind, source)
    except UnusableGrammar as error:
        return str(error)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return str(messages[0]) if failed else ""


def _json_grammar(source: str) -> str:
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise UnusableGrammar(f"it is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UnusableGrammar("it must be a JSON object")
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT_JSON))


_GRAMMARS: dict[GrammarKind, Callable[[str], str]] = {
    "json_schema": _json_grammar,
    "regex": LLMatcher.grammar_from_regex,
    "lark": LLMatcher.grammar_from_lark,
}
