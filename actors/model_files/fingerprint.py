"""Whether two nodes have the same model, told without reading all of it.

Every node reads the model from a path of its own. Workers of one pool that have loaded different weights, or count
other tokens as ends, would answer one request in two ways; so each tells what it is about to load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.errors import ModelError

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "adapter_config.json",
)
"""Read whole."""
WEIGHTS = ("*.safetensors", "adapter_model.bin")
SAMPLE_BYTES = 64 * 1024
"""Of the data of a file of weights, at its beginning and at its end."""
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own bound; what says more is no header."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digests of the files of a model, by name, in the order of the names.

    What is seen: the whole of every file of settings and of the tokenizer; of a file of weights its size, its header
    (the name, type, shape and place of every tensor) and the first and last 64 KiB of its data. What is not seen: a
    change in the middle of the weights that leaves all of this alone, such as a damaged disk makes; and files that no
    engine and no front reads.
    """

    files: tuple[tuple[str, str], ...]

    def part(self, names: Sequence[str]) -> str:
        """One digest of the files that are there of these; empty where there is none."""
        return joined(tuple(entry for entry in self.files if entry[0] in names))

    def difference(self, other: Fingerprint) -> tuple[str, str] | None:
        """The first file that is not the same in both, and what is the matter with this one; None: all are."""
        mine, theirs = dict(self.files), dict(other.files)
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in mine:
                return name, "is missing"
            if name not in theirs:
                return name, "is only there"
            if mine[name] != theirs[name]:
                return name, "has another content"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCopy:
    """What a worker is about to load, and on which node."""

    path: str
    node: str
    fingerprint: Fingerprint

    def objection(self, other: ModelCopy) -> str | None:
        """Why workers with these two copies cannot be of one pool, for a person; None: they can."""
        difference = self.fingerprint.difference(other.fingerprint)
        if difference is None:
            return None
        name, what = difference
        return (
            f"The model {self.path} on node {self.node} differs from that on node {other.node}: file {name} {what}. "
            "Put the same files on both."
        )


def fingerprint_of(config: EngineConfig) -> Fingerprint:
    """Of everything that the engine of a configuration reads: the model, a draft model and a LoRA.

    :raises ModelError: a file cannot be read.
    """
    parts = [("", config.model or builtin_model_path())]
    if config.engine == "exllamav2":
        beside = (("draft_model/", config.exllamav2.draft_model), ("lora/", config.exllamav2.lora))
        parts += [(prefix, path) for prefix, path in beside if path is not None]
    return Fingerprint(
        tuple(sorted((prefix + name, digest) for prefix, path in parts for name, digest in _digests(path)))
    )


def fingerprint_of_files(directory: Path, names: Sequence[str]) -> Fingerprint:
    """Of some small files of a directory, as far as they are there.

    :raises ModelError: one cannot be read.
    """
    found = (directory / name for name in sorted(names))
    return Fingerprint(tuple((path.name, _digest(path, whole=True)) for path in found if path.is_file()))


def joined(entries: tuple[tuple[str, str], ...]) -> str:
    if not entries:
        return ""
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in entries).encode()).hexdigest()


def _digests(directory: Path) -> Iterator[tuple[str, str]]:
    for name in SMALL_FILES:
        if (directory / name).is_file():
            yield name, _digest(directory / name, whole=True)
    for pattern in WEIGHTS:
        for path in directory.glob(pattern):
            yield path.name, _digest(path, whole=False)


def _digest(path: Path, *, whole: bool) -> str:
    try:
        if whole:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        return _sampled(path)
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from None


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        header_bytes = int.from_bytes(first, "little")
        if path.suffix != ".safetensors" or header_bytes > min(MAX_HEADER_BYTES, size):
            header_bytes = 0
        digest = hashlib.sha256(b"%d " % size + first)
        digest.update(file.read(header_bytes + SAMPLE_BYTES))
        file.seek(max(size - SAMPLE_BYTES, 0))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
