"""Plain completions: `POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from serve_app.api.schemas.common import GenerationFields, ResponseModel, TokenId, UsageModel

MAX_PROMPTS = 2048
MAX_LOGPROBS = 5

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]


class CompletionRequest(GenerationFields):
    prompt: Text | Texts | TokenIds | TokenIdLists
    echo: bool | None = Field(None, description="begin with the prompt; not together with logprobs")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        None, description="0: of the sampled token; n: of the n most likely ones too"
    )
    best_of: Annotated[int, Field(ge=1, le=20)] | None = Field(None, description="refused unless it equals n")
    suffix: str | None = Field(None, description="refused unless empty")
    add_bos_token: bool | None = Field(None, description="the tokenizer's own BOS before a text; default true")

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Its prompts, one or several, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class CompletionLogprobs(ResponseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(ResponseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(ResponseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageModel


class CompletionChunkChoice(ResponseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(ResponseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: UsageModel | None = None
