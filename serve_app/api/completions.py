"""Plain completions: texts or token ids in, their continuation out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from actors.errors import UnsupportedParameter
from actors.results import Delta, FinishReason
from serve_app.api.answer import check_choices, make_jobs, require_consistent_stream
from serve_app.api.generation import Job
from serve_app.api.logprobs import CompletionLogprobsWriter
from serve_app.api.options import own_names, pool_options
from serve_app.api.response_format import Constraint, text_constraint
from serve_app.api.schemas.common import UsageModel
from serve_app.api.schemas.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from serve_app.api.sse import ChunkWriter, Identity
from serve_app.caller import Caller
from serve_app.config import ApiLimits
from serve_app.models.served import ServedModel
from serve_app.models.text import ModelText

FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


class CompletionAnswer:
    """An `Answer`. `echoes` holds what every choice begins with; `logprobs` is None where none were asked for."""

    def __init__(
        self,
        identity: Identity,
        jobs: Sequence[Job],
        writer: ChunkWriter,
        echoes: Sequence[str],
        logprobs: Sequence[CompletionLogprobsWriter] | None,
    ) -> None:
        self.jobs = jobs
        self.writer = writer
        self._identity = identity
        self._echoes = echoes
        self._logprobs = logprobs

    def opening(self) -> str:
        return "".join(
            self.writer.choice(job.choice, f'"text": {json.dumps(echo)}, "logprobs": null, "finish_reason": null')
            for job, echo in zip(self.jobs, self._echoes, strict=True)
            if echo
        )

    def chunks(self, choice: int, delta: Delta) -> str:
        if not delta.text and not delta.logprobs and delta.finish_reason is None:
            return ""
        logprobs = "null"
        if self._logprobs is not None and delta.logprobs:
            logprobs = json.dumps(self._logprobs[choice].write(delta.logprobs))
        reason = "null" if delta.finish_reason is None else f'"{FINISH_REASONS[delta.finish_reason]}"'
        text = json.dumps(delta.text)
        return self.writer.choice(choice, f'"text": {text}, "logprobs": {logprobs}, "finish_reason": {reason}')

    def whole(self, deltas: Sequence[Delta], usage: UsageModel) -> str:
        answer = Completion(
            id=self._identity.answer_id,
            created=self._identity.created,
            model=self._identity.model,
            system_fingerprint=self._identity.fingerprint,
            choices=[self._choice(job.choice, delta) for job, delta in zip(self.jobs, deltas, strict=True)],
            usage=usage,
        )
        return answer.model_dump_json()

    def _choice(self, index: int, delta: Delta) -> CompletionChoice:
        assert delta.finish_reason is not None, "a whole completion has an end"
        logprobs = None
        if self._logprobs is not None:
            logprobs = CompletionLogprobs.model_validate(self._logprobs[index].write(delta.logprobs))
        return CompletionChoice(
            index=index,
            text=self._echoes[index] + delta.text,
            logprobs=logprobs,
            finish_reason="length" if delta.finish_reason is FinishReason.LENGTH else "stop",
        )


async def prepare_completion(
    model: ServedModel, request: CompletionRequest, size: int, caller: Caller, limits: ApiLimits
) -> CompletionAnswer:
    """Check a request to the end, all but what only the workers know. `size` is that of its body.

    :raises ExlpoolError: the first thing that is wrong with it.
    """
    n = request.n or 1
    _refuse_unsupported(request, n)
    check_choices(len(request.prompts), n, limits)
    text = model.text
    constraint = await _constraint(model, request)
    options = pool_options(
        request, caller, model.default_priority, limits, {} if constraint is None else constraint.sampling()
    )
    add_bos = request.add_bos_token is not False
    with own_names(request):
        room = model.max_tokens
        prompts = [await text.encode(prompt, size=size, room=room, add_special=add_bos) for prompt in request.prompts]
    jobs = make_jobs(prompts, options, n)
    echoes = [_echo(request, job.choice // n, job, text) for job in jobs]
    identity = Identity.new("cmpl", model.name, model.fingerprint)
    writer = ChunkWriter("text_completion", identity, include_usage=request.include_usage)
    logprobs = None if request.logprobs is None else [CompletionLogprobsWriter(text.names) for _ in jobs]
    return CompletionAnswer(identity, jobs, writer, echoes, logprobs)


def _refuse_unsupported(request: CompletionRequest, n: int) -> None:
    require_consistent_stream(request)
    if request.best_of is not None and request.best_of != n:
        raise UnsupportedParameter("best_of is not supported: ask for n completions.", param="best_of")
    if request.suffix:
        raise UnsupportedParameter("suffix is not supported.", param="suffix")
    if request.echo and request.logprobs is not None:
        raise UnsupportedParameter(
            "echo cannot be combined with logprobs: the engine has no log probabilities of the prompt.", param="echo"
        )


async def _constraint(model: ServedModel, request: CompletionRequest) -> Constraint | None:
    sources = (request.guided_json, request.guided_regex, request.guided_grammar)
    if all(source is None for source in sources):
        return None
    constraint = await asyncio.to_thread(
        text_constraint,
        guided_json=request.guided_json,
        guided_regex=request.guided_regex,
        guided_grammar=request.guided_grammar,
    )
    if constraint is not None:
        await constraint.check(model.grammars)
    return constraint


def _echo(request: CompletionRequest, number: int, job: Job, text: ModelText) -> str:
    if not request.echo:
        return ""
    prompt = request.prompts[number]
    return prompt if isinstance(prompt, str) else text.decode(job.token_ids)
