"""Text to token ids and back, without a worker."""

from __future__ import annotations

from actors.errors import InvalidRequest
from actors.request.prompt import TemplateOptions
from serve_app.api.chat_input import require_free_variables, template_messages, tool_of
from serve_app.api.schemas.tokenize import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from serve_app.models.served import Models, ServedModel


def _model(models: Models, name: str | None) -> ServedModel:
    return models.first if name is None else models.get(name)


async def tokenize(models: Models, request: TokenizeRequest, size: int) -> TokenizeResponse:
    """:raises ExlpoolError: neither or both of prompt and messages, or the model cannot encode them."""
    model = _model(models, request.model)
    text = model.text
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    require_free_variables(request.chat_template_kwargs)
    if request.messages is not None:
        options = TemplateOptions(
            tools=[tool_of(definition).as_openai() for definition in request.tools or ()] or None,
            add_generation_prompt=request.add_generation_prompt is not False and not request.continue_final_message,
            continue_final_message=bool(request.continue_final_message),
            variables=request.chat_template_kwargs,
        )
        tokens = await text.encode(template_messages(request.messages, text), options, size=size)
    else:
        assert request.prompt is not None
        tokens = await text.encode(request.prompt, size=size, add_special=request.add_special_tokens is not False)
    strings = [text.names.shown(token)[0] for token in tokens] if request.return_token_strs else None
    return TokenizeResponse(
        count=len(tokens), max_model_len=model.max_tokens or 0, tokens=list(tokens), token_strs=strings
    )


async def detokenize(models: Models, request: DetokenizeRequest) -> DetokenizeResponse:
    """:raises ExlpoolError: an id outside the vocabulary, or the model is not there."""
    model = _model(models, request.model)
    vocab_size = min(limit.vocab_size for limit in model.limits)
    if request.tokens and max(request.tokens) >= vocab_size:
        raise InvalidRequest(
            f"tokens: {max(request.tokens)} is outside the vocabulary of {vocab_size} tokens.", param="tokens"
        )
    return DetokenizeResponse(prompt=await model.text.decode_all(request.tokens))
