"""`pool.generate`: the function that a script calls on a pool through Ray."""

from __future__ import annotations

from typing import Any

import ray

from actors.request.prompt import Prompt
from actors.results import GenerationResult
from actors.script.openness import Openness
from actors.script.sending import SameCluster


class RemoteGenerate:
    """`pool.generate.remote(...)`: the whole completion of one prompt, as a Ray object reference.

    It can be sent to tasks and actors of the pool's cluster, like the pool itself.
    """

    def __init__(self, front: Any, openness: Openness) -> None:
        self._front = front
        self._openness = openness

    def remote(self, prompt: Prompt, **options: Any) -> ray.ObjectRef[GenerationResult]:
        """Generate a completion of `prompt`: text, token ids, or chat messages.

        `options` are the fields of `SamplingParams`, and `priority` ("interactive", "default", "batch"), `tenant`,
        and `timeout_s`. `ray.get` gives a `GenerationResult`, or raises the `ExlpoolError` that says what was wrong.

        :raises PoolClosed: the pool was closed, or Ray was shut down.
        """
        self._openness.require()
        reference: ray.ObjectRef[GenerationResult] = self._front.generate.remote(prompt, **options)
        return reference

    def forget(self) -> None:
        """Let go of the front actor, once the pool is closed."""
        self._front = None

    def __reduce__(self) -> tuple[Any, ...]:
        self._openness.require()
        return _arrived, (SameCluster(), self._front)

    def __call__(self, *_: Any, **__: Any) -> None:
        raise TypeError(
            "Use pool.generate.remote(...), which returns a Ray object reference: ray.get(...) waits for it."
        )


def _arrived(_: SameCluster, front: Any) -> RemoteGenerate:
    return RemoteGenerate(front, Openness())
