"""What a machine or a cluster is looked at for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.config import PoolConfig
from actors.engines.model_dir import WeightKind
from cluster.doctor.facts import Machine, Model

QUANTISED = frozenset({WeightKind.EXL2, WeightKind.GPTQ})


@dataclass(frozen=True, slots=True)
class Wanted:
    """`gpu`: whether a GPU worker is to run; None: where there is a GPU. `pools` are those whose models are to fit;
    `builtin` is the built-in model, for those that name none. `exlpool` is the version that asks."""

    exlpool: str
    builtin: Model
    gpu: bool | None = None
    pools: tuple[PoolConfig, ...] = ()

    @property
    def model_paths(self) -> tuple[str, ...]:
        """What a node has to look at."""
        paths: list[Path] = []
        for pool in self.pools:
            paths += [path for path in (pool.model, pool.exllamav2.draft_model) if path is not None]
        return tuple(dict.fromkeys(map(str, paths)))

    def gpu_worker_on(self, machine: Machine) -> bool:
        """Whether that machine should be able to host a GPU worker. Unless somebody says so, it should not where its
        GPUs are hidden from processes, nor in a container that was not given those of its host, which it still sees on
        the bus, and their driver in the kernel."""
        nvidia = machine.nvidia
        if self.gpu is not None:
            return self.gpu and (nvidia.hardware > 0 or nvidia.driver is not None)
        if nvidia.gpus:
            return bool(machine.visible_gpus)
        if nvidia.driver is not None or nvidia.error is not None:
            return True
        return nvidia.hardware > 0 and nvidia.kernel_driver is None


def model_of(path: Path | None, machine: Machine, wanted: Wanted) -> Model:
    if path is None:
        return wanted.builtin
    return next(model for model in machine.models if model.path == str(path))


def needs_gpu(pool: PoolConfig, model: Model) -> bool:
    """Whether the model runs on no other engine than ExLlamaV2."""
    return pool.engine == "exllamav2" or (pool.engine == "auto" and model.kind in QUANTISED)
