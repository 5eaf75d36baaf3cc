"""Text to token ids and back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from serve_app.api.schemas.chat import Messages, Tools
from serve_app.api.schemas.common import RequestModel, ResponseModel, TokenId

MAX_TOKENS = 1_000_000


class TokenizeRequest(RequestModel):
    """Give either `prompt` or `messages`."""

    model: str | None = Field(None, description="none: the first model that is served")
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special_tokens: bool | None = Field(None, description="the tokenizer's own BOS before a prompt; default true")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class TokenizeResponse(ResponseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestModel):
    model: str | None = Field(None, description="none: the first model that is served")
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]


class DetokenizeResponse(ResponseModel):
    prompt: str
