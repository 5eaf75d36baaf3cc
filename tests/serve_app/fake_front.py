"""A front without a pool: each prompt's first token id says which script its completion follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from actors.errors import ExlpoolError
from actors.request.options import RequestOptions
from actors.results import Delta, FinishReason, GenerationResult, Timing, Usage
from actors.sampling import SamplingParams

DEFAULT_MAX_NEW_TOKENS = 40
TIMING = Timing(queue_s=0.01, prefill_s=0.02, first_token_s=0.03, total_s=0.05)


@dataclass
class Script:
    """Texts that come one by one, the first not before `after`; then an error, or the end. `hang`: nothing comes after
    the texts."""

    texts: Sequence[str] = ()
    error: ExlpoolError | None = None
    reason: FinishReason = FinishReason.STOP
    hang: bool = False
    cancelled: bool = False
    finished: bool = False
    after: asyncio.Event | None = None


@dataclass
class FakeFront:
    scripts: dict[int, Script]
    running: int = field(default=0)

    def max_new_tokens(self, prompt_tokens: int, params: SamplingParams) -> int:
        return params.max_new_tokens or DEFAULT_MAX_NEW_TOKENS

    async def stream(self, prompt: Sequence[int], options: RequestOptions) -> AsyncGenerator[Delta, None]:
        script = self.scripts[prompt[0]]
        self.running += 1
        try:
            if script.after is not None:
                await script.after.wait()
            for number, text in enumerate(script.texts):
                await asyncio.sleep(0)
                yield Delta(text=text, token_ids=(number,), timing=TIMING if number == 0 else None)
            await asyncio.sleep(0)
            if script.hang:
                await asyncio.Event().wait()
            if script.error is not None:
                raise script.error
            script.finished = True
            yield Delta(text="", finish_reason=script.reason, usage=_usage(prompt, script), timing=TIMING)
        finally:
            self.running -= 1
            script.cancelled = not script.finished

    async def generate(self, prompt: Sequence[int], options: RequestOptions) -> GenerationResult:
        texts = [delta.text async for delta in self.stream(prompt, options)]
        script = self.scripts[prompt[0]]
        return GenerationResult(
            request_id="r",
            text="".join(texts),
            token_ids=tuple(range(len(script.texts))),
            finish_reason=script.reason,
            usage=_usage(prompt, script),
            timing=TIMING,
            worker_id="w",
        )


def _usage(prompt: Sequence[int], script: Script) -> Usage:
    return Usage(len(prompt), len(script.texts))
