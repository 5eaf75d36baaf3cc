"""Whether a grammar can be used at all, found out before a request reaches a queue, let alone an engine.

An engine compiles a grammar for its own tokenizer when the request has a place; a fault that is found there comes after
the response may have begun. The grammars here are built exactly as `actors.engines.grammar` builds them, without a
tokenizer.
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
"""How JSON is written under a grammar: with exactly the white space of json.dumps."""

_MAX_REASON_CHARACTERS = 400
_LISTING = re.compile(r"^ *\d* *\|.*|^ *\^.*", re.MULTILINE)  # the source lines that llguidance shows below a fault

_faults: OrderedDict[bytes, str] = OrderedDict()
_lock = Lock()


def check_grammar(kind: GrammarKind, source: str, *, param: str, subject: str | None = None) -> None:
    """Refuse a grammar that no engine could compile. `subject` is what the message calls it, by default `param`.

    The first check of a very large grammar may take a second, so call it off an event loop when the source is long;
    after that the answer is remembered.

    :raises InvalidRequest: it cannot be used; the message says why.
    """
    fault = _remembered_fault(kind, source)
    if fault:
        raise InvalidRequest(f"{subject or param} cannot be used: {fault.rstrip('.')}.", param=param)


def _remembered_fault(kind: GrammarKind, source: str) -> str:
    if len(source) > MAX_GRAMMAR_CHARACTERS:
        return f"it is longer than {MAX_GRAMMAR_CHARACTERS} characters"
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


def _json_grammar(source: str) -> str:
    schema = json.loads(source)
    if not isinstance(schema, dict):
        raise ValueError("it must be a JSON object")
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT_JSON))


_GRAMMARS: dict[GrammarKind, Callable[[str], str]] = {
    "json_schema": _json_grammar,
    "regex": LLMatcher.grammar_from_regex,
    "lark": LLMatcher.grammar_from_lark,
}


def _fault(kind: GrammarKind, source: str) -> str:
    """Why llguidance refuses the grammar, in one line; empty: it does not."""
    try:
        grammar = _GRAMMARS[kind](source)
    except UnicodeEncodeError:
        return "it holds half a surrogate pair, which is not valid text"
    except (ValueError, RecursionError) as error:
        return f"it is no JSON schema: {error}"
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LLParserLimits(verbose_errors=False))
    if not failed:
        return ""
    told = " ".join(_LISTING.sub("", messages[0]).rpartition("error: ")[2].replace("<non-verbose/>", "").split())
    return told if len(told) <= _MAX_REASON_CHARACTERS else told[: _MAX_REASON_CHARACTERS - 3] + "..."
