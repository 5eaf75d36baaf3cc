"""Clients read over the comments of a stream that has nothing to say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from actors import Pool
from actors.config import SimulatedOptions
from actors.engines.simulated import expected_tokens
from serve_app.api.app import create_api
from serve_app.config import ApiLimits
from serve_app.models.served import Models
from tests.serve_app.api.live import LiveServer, served

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # litellm would fetch a list of prices when it is imported

pytestmark = pytest.mark.ray

PROMPT = list(range(10, 40))
TOKENS = 4
TEXT = "".join(f" w{token}" for token in expected_tokens(tuple(PROMPT), TOKENS))
BODY = {"model": "quiet", "max_tokens": TOKENS, "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def server(ray_cluster: None, eventually: Callable[[Callable[[], bool]], None]) -> Iterator[LiveServer]:
    """Half a second for the prompt and a fifth for every token, with a comment every 50 ms."""
    simulated = SimulatedOptions(step_s=0.2, prefill_tokens_per_s=60.0)
    app_limits = ApiLimits(keepalive_s=0.05)
    with (
        Pool.start(name="quiet", engine="simulated", workers=1, simulated=simulated),
        LiveServer(create_api(Models([served("quiet", "quiet")]), limits=app_limits)) as live,
    ):
        eventually(lambda: httpx.get(f"{live.url}/ready").status_code == 200)
        yield live


def test_comments_come_before_and_between_the_texts(server: LiveServer) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**BODY, "prompt": PROMPT}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == ": keep-alive"
    kinds = "".join("c" if line.startswith(":") else "t" for line in lines)
    assert "tct" in kinds.replace("cc", "c").replace("cc", "c")
    assert lines[-1] == "data: [DONE]"


def test_openai_reads_over_comments(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(client.completions.create(**{**BODY, "prompt": PROMPT}))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


def test_langchain_reads_over_comments(server: LiveServer) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        model="quiet",
        max_retries=0,
        max_completion_tokens=TOKENS,
    )
    text = "".join(str(chunk.content) for chunk in model.stream("Once upon a time there was a fox. " * 4))
    assert text.count(" w") == TOKENS


def test_litellm_reads_over_comments(server: LiveServer) -> None:
    import litellm

    chunks = litellm.completion(
        model="openai/quiet",
        api_base=f"{server.url}/v1",
        api_key="none",
        messages=[{"role": "user", "content": "Once upon a time there was a fox. " * 4}],
        max_tokens=TOKENS,
        stream=True,
        num_retries=0,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).count(" w") == TOKENS
