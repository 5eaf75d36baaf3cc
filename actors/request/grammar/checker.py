"""Whether a grammar can be used, for an API that must say so before its response begins. Never blocks an event loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress

from actors.errors import EngineFailure, Overloaded, PoolClosed
from actors.request.grammar.host import GrammarHost, GrammarProcess, TooCostly
from actors.request.grammar.kinds import (
    COMPILE_CPU_S,
    TOO_COSTLY,
    GrammarKind,
    UnusableGrammar,
    grammar_key,
    refusal,
    require_length,
)

MAX_REMEMBERED = 1024
QUICK_CPU_S = 0.1
QUICK_LANES, SLOW_LANES = 2, 1
MAX_WAITING, MAX_WAITING_SLOW = 64, 8
WALL_TIMEOUT_S = 30.0
_READ_BYTES = 65536


class GrammarChecker:
    """Remembers its answers. What it does not know yet is compiled in another process, which ends where it is too much.

    Nearly all grammars are compiled within milliseconds, and get no more time than QUICK_CPU_S at first, so that none
    waits for long behind one that takes for ever. Those that need more queue up for a second try.
    """

    def __init__(self) -> None:
        self._host = GrammarHost()
        self._starting = asyncio.Lock()
        self._quick = asyncio.Semaphore(QUICK_LANES)
        self._slow = asyncio.Semaphore(SLOW_LANES)
        self._closed = False
        self._waiting = 0
        self._waiting_slow = 0
        self._kept: list[GrammarProcess] = []
        """Processes that wait for the next grammar."""
        self._faults: OrderedDict[bytes, str] = OrderedDict()
        """Why a grammar was refused, by its hash; empty: it was not."""

    async def check(self, kind: GrammarKind, source: str, *, param: str, subject: str | None = None) -> None:
        """Refuse a grammar that no engine could compile. `subject` is what the message calls it, by default `param`.

        :raises InvalidRequest: it cannot be used; the message says why.
        :raises Overloaded: too many others wait for the same.
        """
        try:
            require_length(source)
        except UnusableGrammar as error:
            raise refusal(str(error), param=param, subject=subject) from None
        key = grammar_key(kind, source)
        fault = self._remembered(key)
        if fault is None:
            fault = await self._find_fault(key, kind, source)
        if fault:
            raise refusal(fault, param=param, subject=subject)

    async def _find_fault(self, key: bytes, kind: GrammarKind, source: str) -> str:
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many new grammars wait to be compiled: try again.", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with self._quick:
                fault = await self._tried(key, kind, source, QUICK_CPU_S)
        finally:
            self._waiting -= 1
        return await self._find_fault_slowly(key, kind, source) if fault is None else fault

    async def _find_fault_slowly(self, key: bytes, kind: GrammarKind, source: str) -> str:
        if self._waiting_slow >= MAX_WAITING_SLOW:
            raise Overloaded("Too many large new grammars wait to be compiled: try again.", retry_after_s=COMPILE_CPU_S)
        self._waiting_slow += 1
        try:
            async with self._slow:
                fault = await self._tried(key, kind, source, COMPILE_CPU_S)
        finally:
            self._waiting_slow -= 1
        return self._remember(key, TOO_COSTLY) if fault is None else fault

    async def _tried(self, key: bytes, kind: GrammarKind, source: str, cpu_s: float) -> str | None:
        """Why the grammar cannot be used, empty if it can; None: that takes more than `cpu_s`."""
        known = self._remembered(key)  # it may have become known while this one waited
        if known is not None:
            return known
        try:
            async with asyncio.timeout(WALL_TIMEOUT_S):
                await self._compile(kind, source, cpu_s)
        except TooCostly:
            return None
        except UnusableGrammar as error:
            return self._remember(key, str(error))
        except TimeoutError:
            raise Overloaded("The machine is too busy to compile a grammar: try again.", retry_after_s=5.0) from None
        return self._remember(key, "")

    async def _compile(self, kind: GrammarKind, source: str, cpu_s: float) -> None:
        """:raises UnusableGrammar: the grammar cannot be used; `TooCostly`: at least not within `cpu_s`."""
        for tries_left in reversed(range(QUICK_LANES + 2)):
            try:
                process = await self._begin(kind, source, cpu_s)
                await self._end(process)
            except EngineFailure:  # each process that was kept may have gone, and so may the one that forks them
                if not tries_left:
                    raise
            else:
                return

    async def _begin(self, kind: GrammarKind, source: str, cpu_s: float) -> GrammarProcess:
        while self._kept:
            process = self._kept.pop()
            with suppress(EngineFailure):
                process.compile_next(kind, source, cpu_s=cpu_s)
                return process
            process.close()
        await self._start_host()
        return self._host.compile(kind, source, cpu_s=cpu_s)

    async def _end(self, process: GrammarProcess) -> None:
        """Wait for what a process says. It is kept for the next grammar if it said anything; otherwise its end is."""
        said = False
        try:
            await _verdict(process)
            said = True
        except UnusableGrammar as error:
            said = not isinstance(error, TooCostly)
            raise
        finally:
            if said and not self._closed and len(self._kept) < QUICK_LANES:
                self._kept.append(process)
            else:
                process.close()

    async def _start_host(self) -> None:
        async with self._starting:
            if self._closed:
                raise PoolClosed("The pool was closed.")
            if not self._host.started:
                await asyncio.to_thread(self._host.start)

    def _remembered(self, key: bytes) -> str | None:
        if key in self._faults:
            self._faults.move_to_end(key)
        return self._faults.get(key)

    def _remember(self, key: bytes, fault: str) -> str:
        self._faults[key] = fault
        if len(self._faults) > MAX_REMEMBERED:
            self._faults.popitem(last=False)
        return fault

    def close(self) -> None:
        """End its processes; what is not known yet is refused from now on."""
        self._closed = True
        for process in self._kept:
            process.close()
        self._kept.clear()
        self._host.close()

    def __repr__(self) -> str:
        return f"<GrammarChecker: {len(self._faults)} known, {self._waiting} wait, {self._host!r}>"


async def _verdict(process: GrammarProcess) -> None:
    """:raises UnusableGrammar: the grammar cannot be used.
    :raises EngineFailure: its process did not come up.
    """
    loop = asyncio.get_running_loop()
    compiled = False
    while not compiled:
        try:
            data = await loop.sock_recv(process.connection, _READ_BYTES)
        except ConnectionResetError:
            data = b""
        compiled = process.add(data)
