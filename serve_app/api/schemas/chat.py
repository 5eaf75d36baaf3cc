"""Chats: `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from serve_app.api.schemas.common import MAX_TOP_LOGPROBS, GenerationFields, RequestModel, ResponseModel, UsageModel
from serve_app.api.tools.definitions import MAX_TOOLS

MAX_MESSAGES = 4096
MAX_PARTS = 4096
MAX_TOOL_CALLS = 1024
Role = Annotated[str, Field(pattern=r"^[A-Za-z_]{1,32}$", description="system, developer, user, assistant or tool")]


_WITH_CONTENT: JsonDict = {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}}
_WITH_TOOL_CALLS: JsonDict = {
    "required": ["tool_calls"],
    "properties": {"tool_calls": {"type": "array", "minItems": 1}},
}


class OpenModel(RequestModel):
    """Fields that are not named here reach the model's chat template."""

    model_config = ConfigDict(extra="allow")


class TextPart(OpenModel):
    type: Literal["text"]
    text: str


class CalledFunction(OpenModel):
    name: str
    arguments: str = Field(description="JSON text")


class ToolCall(OpenModel):
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class ChatMessage(OpenModel):
    """It has content, tool calls, or both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [_WITH_CONTENT, _WITH_TOOL_CALLS]})

    role: Role
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionDefinition(RequestModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments")
    strict: bool | None = None


class ToolDefinition(RequestModel):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(RequestModel):
    name: str


class NamedToolChoice(RequestModel):
    type: Literal["function"]
    function: FunctionName


class JsonSchemaFormat(RequestModel):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormatModel(RequestModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
Tools = Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ChatCompletionRequest(GenerationFields):
    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="wins over max_tokens")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormatModel | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    functions: Any = Field(None, description="refused: use tools")
    function_call: Any = Field(None, description="refused: use tool_choice")
    audio: Any = Field(None, description="refused")
    web_search_options: Any = Field(None, description="refused")

    add_generation_prompt: bool | None = Field(None, description="end the prompt where the assistant begins")
    continue_final_message: bool | None = Field(None, description="go on inside the last message")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")


class TopLogprob(ResponseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponseModel):
    content: list[TokenLogprob] | None


class FunctionCall(ResponseModel):
    name: str
    arguments: str


class MadeToolCall(ResponseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(ResponseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[MadeToolCall] | None = None


FinishReasonName = Literal["stop", "length", "tool_calls"]


class ChatChoice(ResponseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonName


class ChatCompletion(ResponseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageModel


class FunctionCallDelta(ResponseModel):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(ResponseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatDelta(ResponseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(ResponseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonName | None


class ChatCompletionChunk(ResponseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: UsageModel | None = None
