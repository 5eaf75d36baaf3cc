"""What can never fit a model's context is refused before it is encoded."""

from __future__ import annotations

from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.errors import ContextLengthExceeded
from actors.request.prompt import PromptEncoder
from serve_app.models.text import ModelText

ROOM = 100
FAR_TOO_LONG = "x" * 100_000


@pytest.fixture(scope="module")
def text() -> ModelText:
    return ModelText(PromptEncoder.load(builtin_model_path()))


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (FAR_TOO_LONG, "100000 characters"),
        ([{"role": "user", "content": FAR_TOO_LONG}], "100000 characters"),
        ([{"role": "user", "content": [{"type": "text", "text": FAR_TOO_LONG}] * 2}], "200000 characters"),
        ([5] * ROOM, "100 tokens"),
    ],
)
async def test_what_is_far_too_long(text: ModelText, prompt: Any, told: str) -> None:
    with pytest.raises(ContextLengthExceeded, match=told):
        await text.encode(prompt, size=len(str(prompt)), room=ROOM)


@pytest.mark.parametrize("prompt", ["x" * 1000, [5] * (ROOM - 1), [{"role": "user", "content": "x"}]])
async def test_what_may_fit_is_encoded(text: ModelText, prompt: Any) -> None:
    assert await text.encode(prompt, size=1000, room=ROOM)


async def test_without_a_bound_all_is_encoded(text: ModelText) -> None:
    assert len(await text.encode(FAR_TOO_LONG, size=len(FAR_TOO_LONG))) > ROOM
