"""The text of one choice of a chat, told as chunks or as a whole message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from actors.results import Delta
from serve_app.api.logprobs import chat_logprobs
from serve_app.api.schemas.chat import AssistantMessage, ChatChoice, ChatLogprobs, FunctionCall, MadeToolCall
from serve_app.api.tools import TextPiece, ToolCallArguments, ToolCallStarted, ToolEvent, ToolPlan
from serve_app.models.token_names import TokenNames

NO_LOGPROBS = "null"


class ChatChoiceText:
    """`names` is set where log probabilities were asked for."""

    def __init__(self, plan: ToolPlan, names: TokenNames | None) -> None:
        self._plan = plan
        self._parser = plan.parser()
        self._names = names

    def chunks(self, delta: Delta) -> Iterator[str]:
        """The fields of the chunks that tell a delta; log probabilities go with the first of them."""
        logprobs = self._logprobs(delta)
        shown = [_delta_json(event) for event in self._events(delta)]
        if not shown and logprobs != NO_LOGPROBS:
            shown = ['{"content": ""}']
        for text in shown:
            yield f'"delta": {text}, "logprobs": {logprobs}, "finish_reason": null'
            logprobs = NO_LOGPROBS
        if delta.finish_reason is not None:
            reason = self._plan.finish_reason(delta.finish_reason, self._parser)
            yield f'"delta": {{}}, "logprobs": null, "finish_reason": "{reason}"'

    def whole(self, index: int, delta: Delta) -> ChatChoice:
        """The choice, from a delta that holds all of it."""
        assert delta.finish_reason is not None, "a whole completion has an end"
        events = self._events(delta)
        content = "".join(event.text for event in events if isinstance(event, TextPiece))
        calls = _calls(events)
        return ChatChoice(
            index=index,
            message=AssistantMessage(content=None if calls and not content else content, tool_calls=calls or None),
            logprobs=None
            if self._names is None
            else ChatLogprobs.model_validate({"content": chat_logprobs(self._names, delta.logprobs)}),
            finish_reason=self._plan.finish_reason(delta.finish_reason, self._parser),
        )

    def _events(self, delta: Delta) -> list[ToolEvent]:
        events = self._parser.push(delta.text)
        return events if delta.finish_reason is None else [*events, *self._parser.finish()]

    def _logprobs(self, delta: Delta) -> str:
        if self._names is None or not delta.logprobs:
            return NO_LOGPROBS
        return json.dumps({"content": chat_logprobs(self._names, delta.logprobs)})


def _delta_json(event: ToolEvent) -> str:
    match event:
        case TextPiece(text):
            return f'{{"content": {json.dumps(text)}}}'
        case ToolCallStarted(index, call_id, name):
            function = f'{{"name": {json.dumps(name)}, "arguments": ""}}'
            call = f'{{"index": {index}, "id": {json.dumps(call_id)}, "type": "function", "function": {function}}}'
        case ToolCallArguments(index, fragment):
            call = f'{{"index": {index}, "function": {{"arguments": {json.dumps(fragment)}}}}}'
    return f'{{"tool_calls": [{call}]}}'


def _calls(events: Sequence[ToolEvent]) -> list[MadeToolCall]:
    arguments: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallArguments):
            arguments[event.index] = arguments.get(event.index, "") + event.fragment
    return [
        MadeToolCall(id=event.call_id, function=FunctionCall(name=event.name, arguments=arguments.get(event.index, "")))
        for event in events
        if isinstance(event, ToolCallStarted)
    ]
