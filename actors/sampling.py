"""How a completion is chosen: the sampling parameters of one request, validated where they are made.

Defaults are neutral: plain sampling from the model's own distribution. Names are those that EXL2 users know. An engine
says which of them it honours (`EngineLimits.supported_parameters`); the others are refused by name, see
`actors.request.checks`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from operator import index
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from actors.errors import InvalidRequest
from actors.wording import fault_told

MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 1024
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_COUNT = 2**31 - 1
"""Engines hold counts in 32 bits."""
NEVER = -100.0
"""The bias of a token that must not come at all."""
GREEDY_BELOW = 1e-4
"""Temperatures below this are 0: engines divide single-precision logits by them."""


def _plain_int(value: Any) -> Any:
    """Let numpy's and torch's integers through strict validation; bool stays refused."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    return index(value)


def _as_tuple(value: Any) -> Any:
    """A single string or id, None, or a list becomes a tuple."""
    if value is None:
        return ()
    if isinstance(value, str | int):
        return (value,)
    return tuple(value) if isinstance(value, list | set | frozenset) else value


def _greedy_if_tiny(temperature: float) -> float:
    return 0.0 if temperature < GREEDY_BELOW else temperature


def _schema_text(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return json.dumps(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from None


Int = Annotated[int, BeforeValidator(_plain_int)]
Count = Annotated[Int, Field(ge=0, le=MAX_COUNT)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]

_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class SamplingParams:
    """The parameters of one request. Construction validates: pydantic's error names the field.

    Use `sampling_params(**values)` to get `InvalidRequest` with one sentence instead.
    """

    max_new_tokens: Annotated[Int, Field(ge=1)] | None = None
    """Bound on the completion in tokens; None: the pool's default, or what the context leaves if that is less."""
    min_new_tokens: Count = 0
    """No stop token is sampled as one of these, and no stop string counts that is complete before the last of them.
    A grammar that allows nothing but the end wins."""
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED)] | None = None
    """Same seed, same text on the same hardware and engine; None: a random one."""

    temperature: Annotated[float, Field(ge=0.0, le=100.0), AfterValidator(_greedy_if_tiny)] = 1.0
    """0 is greedy."""
    top_k: Count = 0
    top_p: Probability = 1.0
    min_p: Probability = 0.0
    top_a: NonNegative = 0.0
    tfs: NonNegative = 0.0
    typical_p: Probability = 0.0
    skew: float = 0.0
    temperature_last: bool = False
    smoothing_factor: NonNegative = 0.0
    min_temp: NonNegative = 0.0
    max_temp: NonNegative = 0.0
    temp_exponent: NonNegative = 1.0
    xtc_probability: Probability = 0.0
    xtc_threshold: Probability = 0.1
    mirostat: bool = False
    mirostat_tau: NonNegative = 1.5
    mirostat_eta: NonNegative = 0.1

    repetition_penalty: Annotated[float, Field(ge=0.01, le=10.0)] = 1.0
    """Divides (positive) or multiplies (negative) the logits of tokens of the prompt and the completion so far."""
    repetition_range: Annotated[Int, Field(ge=-1, le=MAX_COUNT)] = -1
    """How many of the last tokens all three penalties look at; -1: all, 0: none."""
    repetition_decay: Count = 0
    """Over how many tokens before those `repetition_penalty` fades out; presence and frequency do not."""
    presence_penalty: Penalty = 0.0
    """Subtracted once from the logit of every token that occurs in the completion so far (OpenAI's meaning)."""
    frequency_penalty: Penalty = 0.0
    """Subtracted for each occurrence in the completion so far (OpenAI's meaning)."""
    dry_multiplier: NonNegative = 0.0
    dry_base: NonNegative = 1.75
    dry_allowed_length: Count = 2
    dry_range: Count = 0
    logit_bias: Annotated[dict[Int, Annotated[float, Field(ge=-100.0, le=100.0)]], Field(max_length=MAX_LOGIT_BIAS)] = (
        Field(default_factory=dict)
    )
    """Added to the raw logit of a token id before anything else; -100 and 100 mean never and always."""

    stop: Annotated[tuple[StopString, ...], BeforeValidator(_as_tuple), Field(max_length=MAX_STOP_STRINGS)] = ()
    """Strings that end the completion; they are not part of its text."""
    stop_token_ids: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(max_length=MAX_STOP_STRINGS)] = ()
    """Token ids that end the completion, beside the model's own EOS."""
    ignore_eos: bool = False
    banned_strings: Annotated[
        tuple[StopString, ...], BeforeValidator(_as_tuple), Field(max_length=MAX_STOP_STRINGS)
    ] = ()
    """Strings that must not occur: the engine goes back and chooses otherwise. It gives up where they leave no token to
    choose, and where many more tokens have to be taken back than stay: more than 4,096, and 8 for each that stays."""
    token_healing: bool = False
    """The prompt's last token is sampled again, so that it may become a longer one; it is one of the completion's."""

    logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """None: none; 0: of the sampled token; n: of the n most likely tokens beside it. From raw logits."""

    json_schema: Annotated[str | None, BeforeValidator(_schema_text)] = None
    """A JSON schema (dict or text); the completion is a document that it accepts."""
    regex: str | None = None
    """A regular expression that the whole completion matches."""
    lark: str | None = None
    """A Lark grammar that the whole completion matches."""

    @property
    def grammar(self) -> tuple[Literal["json_schema", "regex", "lark"], str] | None:
        """The one constraint on the text, as (kind, source), or None."""
        if self.json_schema is not None:
            return "json_schema", self.json_schema
        if self.regex is not None:
            return "regex", self.regex
        return None if self.lark is None else ("lark", self.lark)

    def changed(self) -> frozenset[str]:
        """Names of the parameters that differ from their neutral default."""
        return frozenset(name for name, value in _NEUTRAL.items() if getattr(self, name) != value)


_NEUTRAL = {field.name: getattr(SamplingParams(), field.name) for field in fields(SamplingParams)}
PARAMETER_NAMES = frozenset(_NEUTRAL)


def sampling_params(**values: Any) -> SamplingParams:
    """`SamplingParams(**values)`, with every fault told in one sentence.

    :raises InvalidRequest: an unknown parameter, a wrong type, a value out of range, or two grammars at once.
    """
    unknown = sorted(set(values) - PARAMETER_NAMES)
    if unknown:
        raise InvalidRequest(f"Unknown sampling parameter {unknown[0]!r}.", param=unknown[0])
    try:
        params = SamplingParams(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "sampling"
        first["loc"] = (name,)  # a token id of `logit_bias` would be taken for the place in a list
        raise InvalidRequest(f"{fault_told(first)}.", param=name) from None
    _check_combinations(params)
    return params


def _check_combinations(params: SamplingParams) -> None:
    if sum(source is not None for source in (params.json_schema, params.regex, params.lark)) > 1:
        raise InvalidRequest("Give one of json_schema, regex and lark, not several.", param="json_schema")
    if params.max_new_tokens is not None and params.min_new_tokens > params.max_new_tokens:
        raise InvalidRequest(
            f"min_new_tokens ({params.min_new_tokens}) is above max_new_tokens ({params.max_new_tokens}).",
            param="min_new_tokens",
        )
    if params.max_temp and params.max_temp < params.min_temp:
        raise InvalidRequest(f"max_temp ({params.max_temp}) is below min_temp ({params.min_temp}).", param="max_temp")
    if params.banned_strings and params.grammar:
        raise InvalidRequest("banned_strings cannot be combined with a grammar.", param="banned_strings")
    if params.token_healing and params.grammar:
        raise InvalidRequest("token_healing cannot be combined with a grammar.", param="token_healing")
