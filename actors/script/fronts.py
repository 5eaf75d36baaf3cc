"""The fronts inside a script's own process."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.model_files.prompt_files import digest_here
from actors.ray_session import RaySession
from actors.request.options import RequestOptions
from actors.request.prompt import Prompt, PromptEncoder
from actors.results import GenerationResult
from actors.script.loop_thread import CLOSE_TIMEOUT_S, LoopThread
from actors.script.shared_front import SharedFront


class ScriptFronts:
    """The patient fronts of this process: one on a background thread for plain code, one on each event loop that
    streams by `async for`, so that no delta changes threads. Opened at first use, since many scripts never stream.

    All share one encoder: a tokenizer may take a second to load, and tens of megabytes.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._encoders = _SharedEncoders()
        self._thread: LoopThread | None = None
        self._threaded: SharedFront | None = None
        self._by_loop: dict[asyncio.AbstractEventLoop, SharedFront] = {}
        self._lock = threading.Lock()
        """Held for moments only, never while a front opens."""
        self._closed = False
        self._session = RaySession()

    def threaded(self) -> tuple[LoopThread, Front]:
        """The front of the background thread, and the thread. Blocks while it opens.

        :raises ExlpoolError: it could not be opened.
        """
        with self._lock:
            self._require_open()
            if self._thread is None:
                self._thread = LoopThread()
                self._thread.end_with(self)
            thread = self._thread
        return thread, thread.submit(self._get_threaded()).result()

    async def _get_threaded(self) -> Front:
        if self._threaded is None:
            self._threaded = SharedFront(self._dispatcher, load_encoder=self._encoders.load)
        return await self._threaded.get()

    async def here(self) -> Front:
        """The front of the running event loop.

        :raises ExlpoolError: it could not be opened.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            self._require_open()
            shared = self._by_loop.get(loop)
            if shared is None:
                shared = self._by_loop[loop] = SharedFront(
                    self._dispatcher, load_encoder=self._encoders.load, on_loop_end=lambda: self._forget(loop)
                )
        return await shared.get()

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._by_loop.pop(loop, None)

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosed("The pool is closed.")
        self._session.require()

    def generate(self, prompt: Prompt, options: RequestOptions) -> Future[GenerationResult]:
        thread, front = self.threaded()
        return thread.submit(front.generate(prompt, options))

    def close(self) -> None:
        """End all of them, and the thread.

        :raises TimeoutError: something on the thread does not end.
        """
        with self._lock:
            self._closed = True
            by_loop, self._by_loop = self._by_loop, {}
            thread, self._thread = self._thread, None
        for loop, shared in by_loop.items():
            if loop.is_running():
                loop.call_soon_threadsafe(shared.shut_down)
        if thread is not None:
            try:
                thread.submit(self._close_threaded()).result(CLOSE_TIMEOUT_S)
            finally:
                thread.close()

    async def _close_threaded(self) -> None:
        if self._threaded is not None:
            await self._threaded.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<ScriptFronts: {state}, on {len(self._by_loop)} loops of the script, thread: {self._thread!r}>"


class _SharedEncoders:
    """Loads the encoder of a tokenizer once, whoever asks first, and wherever its files lie at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[str, PromptEncoder] = {}

    def load(self, model_dir: str) -> PromptEncoder:
        digest = digest_here(Path(model_dir))
        with self._lock:
            if digest not in self._loaded:
                self._loaded[digest] = PromptEncoder.load(model_dir)
            return self._loaded[digest]
