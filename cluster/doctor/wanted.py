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
        """Whether that machine should be able to host a GPU worker. GPUs of a host that a container was not given are
        seen on its bus, and a driver in its kernel: such a container is one for CPUs unless somebody says otherwise."""
        nvidia = machine.nvidia
        if self.gpu is not None:
            return self.gpu and (nvidia.hardware > 0 or nvidia.driver is not None)
        return (
            nvidia.driver is not None or nvidia.error is not None or (nvidia.hardware > 0 and not nvidia.kernel_driver)
        )


def model_of(path: Path | None, machine: Machine, wanted: Wanted) -> Model:
    if path is None:
        return wanted.builtin
    return next(model for model in machine.models if model.path == str(path))


def needs_gpu(pool: PoolConfig, model: Model) -> bool:
    """Whether the model runs on no other engine than ExLlamaV2."""
    return pool.engine == "exllamav2" or (pool.engine == "auto" and model.kind in QUANTISED)
