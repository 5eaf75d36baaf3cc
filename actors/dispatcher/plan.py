"""Which workers a pool should have, and what each is made of. It outlives the dispatcher's process.

Everything else the dispatcher is told again after a crash; what was decided about the number of workers nobody else
knows. So the plan lies in the cluster's own store, under the id of the dispatcher's actor, which stays over restarts.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from actors.config import PoolConfig
from actors.messages import WorkerLimits
from actors.ray_session import SLOT_PREFIX

_STORE = b"exlpool"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWorker:
    """A worker that should be there, or is to leave. It is started when that of slot `after` is gone, whose resources
    it takes over."""

    name: str
    config: PoolConfig
    generation: int = 0
    leaving: bool = False
    superfluous: bool = False
    """It leaves since there were too many, so it may stay when there are too few."""
    grace_s: float | None = None
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`config` is what further workers are made of; workers of another `generation` are to be replaced by such. A
    slot's name is never used twice: `named` have been so far."""

    config: PoolConfig
    workers: tuple[PlannedWorker, ...]
    named: int
    limits: tuple[WorkerLimits, ...] = ()
    """Of the workers that were last seen: what a pool can take of which none is up."""
    generation: int = 0
    previous: PoolConfig | None = None
    """While workers are replaced: what they were made of before."""
    required: tuple[WorkerLimits, ...] = ()
    """While workers are replaced: of those before, of which the new ones may not fall short."""
    refused: str = ""
    """Why the last replacement was given up."""
    grace_s: float | None = None
    """Of workers that are replaced."""

    @property
    def staying(self) -> tuple[PlannedWorker, ...]:
        return tuple(worker for worker in self.workers if not worker.leaving)

    def get(self, name: str) -> PlannedWorker | None:
        return next((worker for worker in self.workers if worker.name == name), None)

    def has_named(self, name: str) -> bool:
        """Whether there was such a worker once."""
        number = name.removeprefix(SLOT_PREFIX)
        return number != name and number.isdecimal() and int(number) < self.named

    def wanted(self) -> dict[str, PoolConfig]:
        """The workers that should exist now, those that leave included, by slot name."""
        names = {worker.name for worker in self.workers}
        return {worker.name: worker.config for worker in self.workers if worker.after not in names}

    def add(self, *, after: str = "") -> tuple[Plan, PlannedWorker]:
        name = f"{SLOT_PREFIX}{self.named}"
        worker = PlannedWorker(name=name, config=self.config, generation=self.generation, after=after)
        return replace(self, workers=(*self.workers, worker), named=self.named + 1), worker

    def leave(self, name: str, grace_s: float | None, *, superfluous: bool) -> Plan:
        return self._change(name, leaving=True, superfluous=superfluous, grace_s=grace_s)

    def keep(self, name: str) -> Plan:
        return self._change(name, leaving=False, superfluous=False, grace_s=None)

    def remove(self, name: str) -> Plan:
        return replace(self, workers=tuple(worker for worker in self.workers if worker.name != name))

    def _change(self, name: str, **changes: Any) -> Plan:
        changed = (replace(worker, **changes) if worker.name == name else worker for worker in self.workers)
        return replace(self, workers=tuple(changed))


def first_plan(config: PoolConfig, slot_names: tuple[str, ...]) -> Plan:
    """Of a pool that is new."""
    workers = tuple(PlannedWorker(name=name, config=config) for name in slot_names)
    return Plan(config=config, workers=workers, named=len(workers))


def missing_in(limits: WorkerLimits, required: tuple[WorkerLimits, ...]) -> str | None:
    """What a worker lacks, so that it could not run everything that workers of the `required` limits could; None:
    nothing."""
    for other in required:
        if limits.tokenizer and other.tokenizer and limits.tokenizer != other.tokenizer:
            return "The new model has another tokenizer than the pool's."
        if limits.vocab_size != other.vocab_size:
            return f"The new model has {limits.vocab_size} tokens, the pool's model has {other.vocab_size}."
        for field, what in (("context_tokens", "tokens of context"), ("total_pages", "pages of cache")):
            new, old = getattr(limits, field), getattr(other, field)
            if new < old:
                return f"The new workers have {new} {what}, the pool's have {old}."
        lost = sorted(other.supported_parameters - limits.supported_parameters)
        if lost:
            return f"The new engine does not support {', '.join(lost)}."
    return None


class PlanStore:
    """Where this actor's plan lies. A pool that never changes never writes one."""

    def __init__(self) -> None:
        self._key = f"plan of {ray.get_runtime_context().get_actor_id()}".encode()

    def load(self) -> Plan | None:
        """The plan of an earlier life of this actor, if it had left one."""
        stored = _internal_kv_get(self._key, namespace=_STORE)
        plan: Plan | None = None if stored is None else pickle.loads(stored)
        return plan

    def save(self, plan: Plan) -> None:
        """Returns when the cluster has it: what is not stored is not begun."""
        _internal_kv_put(self._key, pickle.dumps(plan), overwrite=True, namespace=_STORE)

    def delete(self) -> None:
        _internal_kv_del(self._key, namespace=_STORE)

    def __repr__(self) -> str:
        return f"<PlanStore at {self._key.decode()!r}>"
