"""What requests for chats and for plain completions share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from actors.results import Priority
from actors.sampling import MAX_COUNT, MAX_LOGIT_BIAS, MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

MAX_TOP_LOGPROBS = 20
MAX_N = 128
MAX_TOKEN_ID = MAX_COUNT
MAX_FACTOR = 1e6
"""Engines hold factors in single precision."""

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, le=MAX_FACTOR)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopStrings = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]


def _few_biases(value: Any) -> Any:
    """pydantic counts the entries of a mapping after it has checked them all."""
    if isinstance(value, dict) and len(value) > MAX_LOGIT_BIAS:
        raise PydanticCustomError(
            "too_long",
            "Dictionary should have at most {max_length} items, not {actual_length}",
            {"max_length": MAX_LOGIT_BIAS, "actual_length": len(value)},
        )
    return value


LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Bias],
    Field(max_length=MAX_LOGIT_BIAS),
    BeforeValidator(_few_biases),
]


class RequestModel(BaseModel):
    """A request, or a part of one. Values are taken as they are: the text "5" is no number.

    Every list in it says `fail_fast`, and every mapping with checked values has a bound that is looked at first: else
    each of 400,000 wrong items would make errors of its own, some kilobytes and microseconds each.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class ResponseModel(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(extra="forbid")


class StreamOptions(RequestModel):
    include_usage: bool | None = Field(None, description="send the usage in a last chunk without choices")


class Samplers(RequestModel):
    """How tokens are chosen. Fields that the running engine cannot honour are refused by name."""

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = Field(None, description="0 is greedy; default 1")
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = Field(
        None, description="token id (as text) to what is added to its logit; -100 and 100 mean never and always"
    )

    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = Field(None, description="0 or -1: off")
    min_p: Probability | None = None
    top_a: NonNegative | None = None
    typical_p: Probability | None = Field(None, validation_alias=AliasChoices("typical_p", "typical"))
    tfs: NonNegative | None = None
    skew: Annotated[float, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)] | None = None
    temperature_last: bool | None = None
    smoothing_factor: NonNegative | None = None
    min_temp: NonNegative | None = Field(
        None, validation_alias=AliasChoices("min_temp", "dynatemp_low"), description="dynamic temperature: lowest"
    )
    max_temp: NonNegative | None = Field(
        None, validation_alias=AliasChoices("max_temp", "dynatemp_high"), description="dynamic temperature: highest"
    )
    temp_exponent: NonNegative | None = Field(None, validation_alias=AliasChoices("temp_exponent", "dynatemp_exponent"))
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    mirostat_mode: Annotated[int, Field(ge=0, le=2)] | None = Field(None, description="0: off, 2: Mirostat 2.0")
    mirostat_tau: NonNegative | None = None
    mirostat_eta: NonNegative | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10.0)] | None = None
    repetition_range: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = Field(
        None,
        validation_alias=AliasChoices("repetition_range", "penalty_range", "repetition_penalty_range"),
        description="how many of the last tokens the repetition penalty looks at; -1: all",
    )
    repetition_decay: Count | None = None
    dry_multiplier: NonNegative | None = None
    dry_base: NonNegative | None = None
    dry_allowed_length: Count | None = None
    dry_range: Count | None = Field(None, validation_alias=AliasChoices("dry_range", "dry_penalty_last_n"))
    dry_sequence_breakers: Annotated[list[str], Field(fail_fast=True)] | None = Field(
        None, description="not supported: refused unless empty"
    )


class GenerationFields(Samplers):
    """Everything but the prompt."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    min_tokens: Count | None = Field(None, validation_alias=AliasChoices("min_tokens", "min_new_tokens"))
    ignore_eos: bool | None = Field(None, validation_alias=AliasChoices("ignore_eos", "ban_eos_token"))
    banned_strings: StopString | StopStrings | None = None
    token_healing: bool | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="a JSON schema that the completion fits")
    guided_regex: str | None = Field(None, description="a regular expression that the whole completion matches")
    guided_grammar: str | None = Field(None, description="a Lark grammar that the whole completion matches")

    priority: Priority | None = Field(None, description="interactive, default or batch, as far as the key allows")
    timeout_s: Annotated[float, Field(gt=0.0, le=86400.0)] | None = Field(
        None, description="bound on the whole life of the request"
    )

    @property
    def include_usage(self) -> bool:
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)


class PromptTokensDetails(ResponseModel):
    cached_tokens: int = Field(description="prompt tokens that were not computed again")


class UsageModel(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
