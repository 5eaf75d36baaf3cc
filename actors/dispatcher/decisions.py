"""The dispatcher's side of the links to fronts: who asked for what, and decisions on their way back. Pure asyncio."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from actors.messages import Admission, Grant, Refusal

Decision = Grant | Refusal


class DecisionBox:
    """Decisions for one front that its stream has not taken yet. Bounded by what the front has asked for."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, decision: Decision) -> None:
        self._decisions.append(decision)
        self._filled.set()

    def close(self) -> None:
        self._closed = True
        self._filled.set()

    async def take(self) -> tuple[Decision, ...] | None:
        """Everything there is, once there is something; None after the end."""
        await self._filled.wait()
        self._filled.clear()
        decisions, self._decisions = tuple(self._decisions), []
        if not decisions and self._closed:
            return None
        if self._closed:
            self._filled.set()
        return decisions


@dataclass(slots=True)
class _Entry:
    front_id: str
    attempt: int
    grant: Grant | None = None


class DecisionBoxes:
    """Who asked for which request, at which attempt, and each front's box. An entry lives from the admission to the
    refusal, the end, or the cancellation of its attempt."""

    def __init__(self) -> None:
        self._boxes: dict[str, DecisionBox] = {}
        self._entries: dict[str, _Entry] = {}

    def open(self, front_id: str) -> DecisionBox:
        box = self._boxes[front_id] = DecisionBox()
        return box

    def is_open(self, front_id: str, box: DecisionBox) -> bool:
        return self._boxes.get(front_id) is box

    def close(self, front_id: str, box: DecisionBox) -> list[str]:
        """Forget a front, unless it has opened another box since; returns the requests that it leaves behind."""
        if self._boxes.get(front_id) is not box:
            return []
        del self._boxes[front_id]
        orphans = [request_id for request_id, entry in self._entries.items() if entry.front_id == front_id]
        for request_id in orphans:
            del self._entries[request_id]
        return orphans

    def close_all(self) -> None:
        for box in self._boxes.values():
            box.close()

    def enter(self, front_id: str, admission: Admission) -> Grant | bool | None:
        """Note an admission. None: it is new. Else it was asked for before: its grant, or True while undecided."""
        entry = self._entries.get(admission.request_id)
        if entry is not None and entry.front_id == front_id and entry.attempt == admission.attempt:
            return entry.grant or True
        if entry is None or entry.front_id == front_id:
            self._entries[admission.request_id] = _Entry(front_id, admission.attempt)
        return None

    def leave(self, front_id: str, request_id: str, attempt: int) -> bool:
        """A front gives an attempt up; returns whether it was the current one."""
        entry = self._entries.get(request_id)
        if entry is None or entry.front_id != front_id or entry.attempt > attempt:
            return False
        del self._entries[request_id]
        return True

    def forget(self, request_id: str, attempt: int) -> None:
        """A worker has finished this attempt."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.attempt <= attempt:
            del self._entries[request_id]

    def owner(self, request_id: str) -> str | None:
        entry = self._entries.get(request_id)
        return None if entry is None else entry.front_id

    def note(self, decision: Decision) -> None:
        """Remember a grant, so that it can be told again; a refusal ends the entry."""
        if isinstance(decision, Refusal):
            self._entries.pop(decision.request_id, None)
        elif decision.request_id in self._entries:
            self._entries[decision.request_id].grant = decision

    def put(self, decision: Decision) -> None:
        """Send a decision to whoever asked; nobody's decisions are dropped."""
        front_id = self.owner(decision.request_id)
        self.note(decision)
        if front_id is not None and front_id in self._boxes:
            self._boxes[front_id].put(decision)
