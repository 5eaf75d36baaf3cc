"""A front reads the tokenizer of its own node where that is the pool's, and what a worker sends elsewhere."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from actors.builtin_model import builtin_model_path
from actors.errors import ModelError, NoHealthyWorker
from actors.front import prompt_directory as module
from actors.front.prompt_directory import prompt_directory
from actors.messages import Welcome
from actors.model_files.prompt_files import digest_here, read_files
from actors.ray_session import RaySession
from tests.front.actors import LIMITS, Method

BUILT_IN = builtin_model_path()
DIGEST = digest_here(BUILT_IN)


class Sender:
    """A worker that sends the files of a directory, or fails."""

    def __init__(self, directory: Path = BUILT_IN, failure: Exception | None = None) -> None:
        self._directory, self._failure = directory, failure
        self.prompt_files = Method(self._send)

    async def _send(self) -> dict[str, bytes]:
        if self._failure is not None:
            raise self._failure
        return read_files(self._directory)


class Silent(Sender):
    async def _send(self) -> dict[str, bytes]:
        await asyncio.Event().wait()
        raise AssertionError("not reached")


def welcome(model_dir: Path, *workers: Sender, digest: str = DIGEST) -> Welcome:
    return Welcome(
        workers={f"worker-{number}": worker for number, worker in enumerate(workers)},
        limits=(replace(LIMITS, prompt_files=digest),),
        model_dir=str(model_dir),
        default_max_new_tokens=4,
    )


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the model with another chat template."""
    copy = Path(shutil.copytree(BUILT_IN, tmp_path / "changed"))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    return copy


async def read(greeting: Welcome) -> tuple[Path, str]:
    """The directory, and the digest of what it holds."""
    async with prompt_directory(greeting, RaySession()) as directory:
        return Path(directory), digest_here(Path(directory))


async def test_the_model_s_own_directory_serves_where_it_is_the_pool_s() -> None:
    sender = Sender()
    assert await read(welcome(BUILT_IN, sender)) == (BUILT_IN, DIGEST)
    assert sender.prompt_files.calls == 0


async def test_where_nobody_has_looked_any_tokenizer_at_the_path_serves(changed: Path) -> None:
    assert (await read(welcome(changed, digest="")))[0] == changed


async def test_without_a_directory_a_worker_is_asked_and_nothing_is_left_behind(tmp_path: Path) -> None:
    for digest in (DIGEST, ""):
        directory, found = await read(welcome(tmp_path / "none", Sender(), digest=digest))
        assert found == DIGEST
        assert not directory.exists()


async def test_another_copy_of_the_tokenizer_does_not_serve(changed: Path) -> None:
    directory, found = await read(welcome(changed, Sender(changed), Sender()))
    assert directory != changed
    assert found == DIGEST


async def test_a_worker_that_does_not_send_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    assert (await read(welcome(tmp_path, Silent(), Sender())))[1] == DIGEST


async def test_while_there_is_no_worker_another_node_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "other_nodes", lambda: ["first", "second"])
    found = {"first": None, "second": read_files(BUILT_IN)}
    monkeypatch.setattr(module, "asked_of", lambda nodes, look, path: (found[node] for node in nodes))
    assert (await read(welcome(tmp_path)))[1] == DIGEST
    with pytest.raises(NoHealthyWorker):
        await read(welcome(tmp_path, digest="another"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "other_nodes", list)


@pytest.mark.usefixtures("alone")
async def test_where_nobody_sends_the_front_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(NoHealthyWorker, match="is not on node"):
        await read(welcome(tmp_path))
    with pytest.raises(ModelError, match="too large"):
        await read(welcome(tmp_path, Sender(failure=ModelError("too large"))))
