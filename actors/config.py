"""Everything a user can configure, under the same words in Python, YAML and on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actors.errors import ConfigurationError
from actors.hugging_face import model_directory
from actors.paging.hashes import PAGE_TOKENS
from actors.wording import not_utf8, setting_error, shown

EngineName = Literal["auto", "cpu", "exllamav2", "simulated"]
CacheMode = Literal["fp16", "q8", "q6", "q4"]
Placement = Literal["pack", "spread"]
Readiness = Literal["first", "all"]
DispatcherNode = Literal["auto", "head", "here"]
PolicyName = Literal["cost", "lmetric", "power_of_two", "least_requests", "round_robin"]


LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedOptions(_Section):
    """The simulated engine: a model of time, not of language."""

    step_s: float = Field(0.02, ge=0.0, description="time of a step with one running job")
    step_s_per_job: float = Field(0.0, ge=0.0, description="what each further job adds to a step")
    prefill_tokens_per_s: float = Field(0.0, ge=0.0, description="0: prefill takes no time")
    vocab_size: int = Field(2048, ge=8, description="ids that there are")
    context_tokens: int = Field(8192, ge=2, description="bound on prompt + completion")
    fail_at_step: int | None = Field(None, ge=1, description="raise in this step, once")
    exit_at_step: int | None = Field(None, ge=1, description="end the process in this step")
    stall_at_step: int | None = Field(None, ge=1, description="hang in this step")
    fatal_at_step: int | None = Field(None, ge=1, description="raise in this step that the process is beyond repair")
    fail_at_token: int | None = Field(None, ge=0, description="raise when a prompt that begins with this id starts")
    exit_at_token: int | None = Field(None, ge=0, description="end the process when such a prompt starts")
    stall_submit_at_token: int | None = Field(
        None, ge=0, description="hang when a prompt that begins with this id is submitted"
    )
    load_s: float = Field(0.0, ge=0.0, description="time that loading takes")
    fail_load: bool = Field(False, description="raise when the model is loaded")
    fail_reset: bool = Field(False, description="raise when the engine is reset after a failed step")
    fail_close: bool = Field(False, description="raise when the engine is closed")
    own_process: bool = Field(False, description="run in a process of its own, as ExLlamaV2 does")
    stamp_text: bool = Field(
        False, description="every token's text is the time.monotonic() of its step, for benchmarks"
    )


class Exllamav2Options(_Section):
    """Settings that only ExLlamaV2 has."""

    gpu_split: tuple[float, ...] | None = Field(
        None, description='GB of weights per GPU of a worker, as [20, 24] or "20,24"; none: automatic'
    )
    tensor_parallel: bool = Field(False, description="have all GPUs of a worker compute every layer together")
    max_input_tokens: int = Field(
        2048, ge=PAGE_TOKENS, multiple_of=PAGE_TOKENS, description="scratch space per forward"
    )
    rope_scale: float | None = Field(None, gt=0.0, description="divides positions; none: the model's")
    rope_alpha: float | None = Field(None, gt=0.0, description="stretches the rotary base; none: the model's")
    draft_model: Path | None = Field(None, description="small model with the same tokenizer that drafts tokens")
    draft_tokens: int = Field(4, ge=1, le=16, description="drafted at a time")
    ngram_draft: bool = Field(False, description="draft what followed the same words before")
    lora: Path | None = Field(None, description="directory of a LoRA adapter")
    lora_scale: float = Field(1.0, description="weight of the adapter")
    max_prefills: int = Field(2, ge=1, description="prompts that may prefill in one step, beside running streams")

    @field_validator("gpu_split", mode="before")
    @classmethod
    def _as_one_text(cls, split: Any) -> Any:
        """As the command line and the environment have it."""
        return split.split(",") if isinstance(split, str) else split

    @field_validator("draft_model", "lora")
    @classmethod
    def _found(cls, path: Path | None) -> Path | None:
        return None if path is None else model_directory(path)


class EngineConfig(_Section):
    """One engine: what a worker is made of."""

    model: Path | None = Field(
        None, description="model directory, or org/name of one downloaded from Hugging Face; none: the built-in model"
    )
    engine: EngineName = Field("auto", description="auto picks by the model's weights and the hardware")
    cache_tokens: int | None = Field(
        None, ge=PAGE_TOKENS, multiple_of=PAGE_TOKENS, description="key-value cache; none: what is left, within reason"
    )
    cache_mode: CacheMode = Field("fp16", description="how precise the cache is: fewer bits hold more tokens")
    context_tokens: int | None = Field(None, ge=2, description="bound on prompt + completion; none: the model's")
    max_batch_size: int = Field(32, ge=1, le=1024, description="jobs that decode together")
    chunk_tokens: int = Field(512, ge=PAGE_TOKENS, multiple_of=PAGE_TOKENS, description="prompt tokens per step")
    cpu_threads: int = Field(1, ge=1, le=256, description="of the CPU engine")
    warm_up: bool = Field(True, description="generate a few tokens after loading, so that no request waits for that")
    exllamav2: Exllamav2Options = Field(Exllamav2Options(), description="settings that only ExLlamaV2 has")
    simulated: SimulatedOptions = Field(SimulatedOptions(), description="settings of the simulated engine, for tests")


class PoolConfig(EngineConfig):
    """A pool: its engine, its workers, and how much may wait."""

    name: str = Field("default", description="by which scripts find the pool")
    workers: int = Field(1, ge=1, le=1024, description="to start with")
    min_workers: int | None = Field(
        None, ge=0, le=1024, description="what an idle pool shrinks to; none: `workers`; 0: all of them are given back"
    )
    max_workers: int | None = Field(None, ge=1, le=1024, description="what a busy pool grows to; none: `workers`")
    scale_up_wait_s: float = Field(5.0, gt=0.0, description="estimated wait beyond which the pool grows")
    scale_down_after_s: float = Field(300.0, gt=0.0, description="idle time after which a worker is given back")
    cpus_per_worker: float = Field(1.0, ge=0.0, description="CPUs that each worker claims from Ray")
    gpus_per_worker: float | None = Field(None, ge=0.0, description="none: 1 for a GPU engine, else 0")
    placement: Placement = Field(
        "spread",
        description="over as many nodes as there are, so that the death of one takes the fewest workers; or pack: on "
        "as few as hold them, so that an autoscaler can take the others away",
    )
    node_labels: dict[str, str] = Field({}, description="workers only on nodes with all of these labels of Ray")
    wait: bool = Field(True, description="wait for nodes that the cluster does not have yet; false: refuse")
    wait_for: Readiness = Field(
        "first", description="what a start waits for: the first worker that can generate, or all of them"
    )
    dispatcher_node: DispatcherNode = Field(
        "auto", description="the head of the cluster, or where the pool is started; auto: here, or head if `detached`"
    )
    policy: PolicyName = Field("cost", description="how a worker is chosen; the others are there to compare")
    max_queued_requests: int = Field(4096, ge=1, description="waiting requests beyond which the pool refuses")
    max_wait_s: float = Field(600.0, gt=0.0, description="estimated wait beyond which the pool refuses")
    default_max_new_tokens: int = Field(256, ge=1, description="bound on a completion that names none")
    max_restarts: int = Field(-1, ge=-1, description="of one worker, in all its time; -1: without end")
    max_restart_pause_s: float = Field(
        60.0, ge=0.0, description="a worker that dies again and again waits 1, 2, 4 ... s before it starts, up to this"
    )
    stall_timeout_s: float = Field(30.0, gt=0.0, description="a step that takes longer hangs: its worker is restarted")
    start_timeout_s: float = Field(600.0, gt=0.0, description="time that the workers have to load")
    detached: bool = Field(False, description="outlive the script that started the pool")
    event_log: Path | None = Field(
        None, description="directory where the dispatcher logs its scheduler's events, to be replayed"
    )

    @field_validator("name")
    @classmethod
    def _fits_ray(cls, name: str) -> str:
        return require_form(
            name, POOL_NAME, "at most 63 letters, digits, '_', '.' and '-', the first a letter or digit"
        )

    @field_validator("node_labels")
    @classmethod
    def _plain_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        """Ray takes more than plain values, such as `!a100`, of which nobody here could say which nodes are meant."""
        for value in labels.values():
            require_form(value, LABEL_VALUE, "plain values, of letters, digits, '_', '.' and '-'")
        return labels

    @field_validator("model")
    @classmethod
    def _found(cls, path: Path | None) -> Path | None:
        return None if path is None else model_directory(path)

    @field_validator("event_log")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Actors have another working directory than the script."""
        return None if path is None else path.expanduser().absolute()

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most workers between which the pool scales by itself; equal: it does not."""
        return (
            self.workers if self.min_workers is None else self.min_workers,
            self.workers if self.max_workers is None else self.max_workers,
        )

    @model_validator(mode="after")
    def _workers_in_order(self) -> Self:
        fewest, most = self.bounds
        if not fewest <= self.workers <= most:
            raise ValueError(f"workers is from min_workers, {fewest}, to max_workers, {most}, not {self.workers}")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker is a fraction of one GPU or a whole number, not {gpus}")
        return self


def require_form(text: str, form: re.Pattern[str], words: str) -> str:
    """The text, if all of it is of a form that `words` describe.

    :raises ValueError: for pydantic.
    """
    if form.fullmatch(text) is None:
        raise ValueError(f"must be {words}, not {shown(text)}")
    return text


def pool_config(**values: Any) -> PoolConfig:
    """`PoolConfig(**values)`, with every fault told in one sentence.

    :raises ConfigurationError: an unknown setting, a wrong type or a value out of range.
    """
    try:
        return PoolConfig(**values)
    except ValidationError as error:
        raise setting_error(error, PoolConfig) from None


def load_config(path: Annotated[Path, "a YAML file"]) -> PoolConfig:
    """Read a pool's configuration from YAML.

    :raises ConfigurationError: no such file, not YAML, or a wrong setting; it names the file.
    """
    values = read_settings(path)
    with naming(path):
        return pool_config(**values)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say in which file a wrong setting stands."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", param=error.param) from None


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    :raises ConfigurationError: it cannot be read, or holds none.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {not_utf8(error)}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: a date that is none, lists in lists
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} must hold a mapping of settings, such as `workers: 2`.")
    return {str(name): value for name, value in values.items()}
