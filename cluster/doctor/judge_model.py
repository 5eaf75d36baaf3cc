"""Judging whether a model is there, and fits."""

from __future__ import annotations

from actors.config import PoolConfig
from actors.engines.gpu_memory import GB, MemoryNeed
from actors.engines.model_dir import WeightKind
from cluster.doctor.facts import Gpu, Machine, Model
from cluster.doctor.findings import Finding, missing, ok, warning
from cluster.doctor.memory import context_tokens, memory_need
from cluster.doctor.wanted import QUANTISED, Wanted, model_of, needs_gpu

SPLIT_LOSS = 0.95
"""Of the memory of several GPUs, what layers that cannot be divided leave usable."""
UNBOUNDED_TOKENS = 2**40


def judge_models(machine: Machine, wanted: Wanted, gpus: tuple[Gpu, ...] | None) -> tuple[Finding, ...]:
    """For every pool its model, and what that takes. `gpus` None: no GPU worker runs on this machine."""
    findings: list[Finding] = []
    for pool in wanted.pools:
        if pool.engine == "simulated":
            continue
        model = model_of(pool.model, machine, wanted)
        draft_path = pool.exllamav2.draft_model
        draft = None if draft_path is None else model_of(draft_path, machine, wanted)
        judged = [_directory(pool, model, gpus is not None)]
        if draft is not None and draft.error is not None:
            judged.append(missing("model", draft.error, "Copy the draft model to the same path on this machine."))
        findings += judged
        usable = all(finding.cure == "" for finding in judged)
        if usable and gpus and pool.engine != "cpu":
            findings.append(judge_memory(pool, model, draft, gpus))
    return tuple(findings)


def _directory(pool: PoolConfig, model: Model, gpu_worker: bool) -> Finding:
    told = f"{model.path}: {model.architecture}, {model.kind}, {model.weight_bytes / GB:.1f} GB of weights"
    if model.error is not None:
        if not gpu_worker and pool.engine == "exllamav2":
            return ok("model", f"{model.path} is not here, where no GPU worker runs")
        return missing(
            "model", model.error, "Put the whole model under the same path on every machine that is to run it."
        )
    if model.kind == WeightKind.EXL3:
        return missing("model", f"{told}: no engine here reads them", "Use an EXL2 version of the model.")
    if pool.engine == "cpu" and model.kind in QUANTISED:
        return missing("model", f"{told}, which the CPU engine cannot read", "Use unquantised weights, or a GPU.")
    return ok("model", told)


def needs_gpu_worker(machine: Machine, wanted: Wanted) -> bool:
    """Whether a model that is wanted runs on GPUs only."""
    return any(
        needs_gpu(pool, model_of(pool.model, machine, wanted)) for pool in wanted.pools if pool.engine != "simulated"
    )


def judge_memory(pool: PoolConfig, model: Model, draft: Model | None, gpus: tuple[Gpu, ...]) -> Finding:
    """Whether one worker fits into the memory that is free now, on as many GPUs as it is given."""
    count = max(int(pool.gpus_per_worker or 1), 1)
    need = memory_need(pool, model, draft, count)
    if need is None:
        return warning("memory", "config.json does not say how large the cache will be", "Load the model once and see.")
    if len(gpus) < count:
        return missing(
            "memory", f"a worker takes {count} GPUs, and {len(gpus)} are here", "Lower gpus_per_worker, or add GPUs."
        )
    share = SPLIT_LOSS if count > 1 else 1.0
    best = sorted(gpus, key=lambda gpu: gpu.free_bytes, reverse=True)[:count]
    free, total = (int(share * sum(sizes)) for sizes in ((g.free_bytes for g in best), (g.total_bytes for g in best)))
    context = min(context_tokens(pool, model), UNBOUNDED_TOKENS)
    tokens = pool.cache_tokens or min(need.tokens_that_fit(free, UNBOUNDED_TOKENS), pool.max_batch_size * context)
    needed = need.total_bytes(tokens)
    told = _told(need, tokens, pool, needed, free)
    if needed <= free:
        return _fits(pool, tokens, context, told)
    if needed <= total:
        return missing("memory", told, _free_it(best))
    return missing("memory", told, _make_it_smaller(pool, need, total, count))


def _told(need: MemoryNeed, tokens: int, pool: PoolConfig, needed: int, free: int) -> str:
    where = f"{need.devices} GPUs" if need.devices > 1 else "one GPU"
    weights = f"{need.weight_bytes / GB:.1f} GB of weights"
    cache = f"{tokens * need.bytes_per_token / GB:.1f} GB of {pool.cache_mode} cache for {tokens} tokens"
    return f"about {needed / GB:.1f} GB on {where}, of {free / GB:.1f} GB free: {weights}, {cache}"


def _fits(pool: PoolConfig, tokens: int, context: int, told: str) -> Finding:
    if tokens >= context:
        return ok("memory", told)
    return warning(
        "memory",
        f"{told}, which is less than one job of {context} tokens",
        "Raise cache_tokens, or lower context_tokens to what jobs need.",
    )


def _free_it(gpus: list[Gpu]) -> str:
    users = [f"{process.name} (pid {process.pid})" for gpu in gpus for process in gpu.processes]
    return f"Free the GPU, which would be large enough: end {', '.join(users) if users else 'what uses it'}."


def _make_it_smaller(pool: PoolConfig, need: MemoryNeed, total_bytes: int, gpus: int) -> str:
    if need.fixed_bytes >= total_bytes:
        return f"Give the worker more GPUs than {gpus}, or take a version of the model with fewer bits per weight."
    fit = need.tokens_that_fit(total_bytes, UNBOUNDED_TOKENS)
    quantise = "" if pool.cache_mode == "q4" else ", use cache_mode q8, q6 or q4"
    return f"Lower cache_tokens to about {fit}{quantise}, or raise gpus_per_worker."
