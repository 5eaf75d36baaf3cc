"""Where a front reads the tokenizer and the chat template: in the model's directory on its own node, or, where that has
none or another one, in what a worker sends of its own, or another node while there is no worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.exceptions import RayError

from actors.errors import ExlpoolError, ModelError, NoHealthyWorker, first_line
from actors.messages import Welcome
from actors.model_files.prompt_files import digest_here, digest_of, read_files, write_files
from actors.ray_nodes import asked_of, other_nodes
from actors.ray_session import RaySession, own_node_name

logger = logging.getLogger(__name__)

ANSWER_S = 20.0
"""For a worker to send the files: tens of megabytes at most. One that does not is passed over."""
RETRY_AFTER_S = 2.0


@asynccontextmanager
async def prompt_directory(welcome: Welcome, session: RaySession) -> AsyncIterator[str]:
    """A directory with the pool's tokenizer and chat template; it may be gone after the `with` block.

    :raises NoHealthyWorker: this node has none, and neither a worker nor another node sends them.
    :raises ModelError: a worker says why it does not.
    """
    wanted = {limits.prompt_files for limits in welcome.limits} - {""}
    here = await asyncio.to_thread(digest_here, Path(welcome.model_dir))
    if here and (here in wanted or not wanted):
        yield welcome.model_dir
        return
    files = await _sent(welcome, wanted, session)
    with TemporaryDirectory(prefix="exlpool-tokenizer-") as directory:
        await asyncio.to_thread(write_files, files, Path(directory))
        yield directory


async def _sent(welcome: Welcome, wanted: set[str], session: RaySession) -> dict[str, bytes]:
    failure: ExlpoolError = NoHealthyWorker(
        f"The tokenizer of {welcome.model_dir} is not on node {own_node_name()}, and nobody sends it: put the model's "
        "files there too, or try again when a worker is up.",
        retry_after_s=RETRY_AFTER_S,
    )
    for slot_name, worker in welcome.workers.items():
        try:
            async with asyncio.timeout(ANSWER_S):
                files: dict[str, bytes] = await session.call(worker.prompt_files)
        except (RayError, TimeoutError) as error:
            logger.warning("Worker %s does not send its tokenizer: %s", slot_name, first_line(error))
            cause = getattr(error, "cause", None)
            failure = cause if isinstance(cause, ModelError) else failure
        else:
            if not wanted or digest_of(files) in wanted:
                return files
    return await asyncio.to_thread(_sent_by_a_node, Path(welcome.model_dir), wanted, failure)


def _sent_by_a_node(model_dir: Path, wanted: set[str], failure: ExlpoolError) -> dict[str, bytes]:
    """Of a pool that sleeps: whoever would wake it needs its tokenizer first."""
    for files in asked_of(other_nodes(), read_files, model_dir):
        if files is not None and (not wanted or digest_of(files) in wanted):
            return files
    raise failure
