"""The *.safetensors files of a model directory, checked and summed up from their headers alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from actors.errors import ModelError

INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound (safetensors, `MAX_HEADER_SIZE`)."""

_PART = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors$")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TensorFiles:
    """`suffixes` holds the last part of every tensor's name ("weight", "q_weight"), `bytes_of_dtype` counts the data
    under safetensors' own names of types ("F16", "I32")."""

    paths: tuple[Path, ...]
    suffixes: frozenset[str]
    bytes_of_dtype: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_of_dtype.values())


def read_tensor_files(directory: Path) -> TensorFiles:
    """Read the headers of all *.safetensors in `directory`.

    :raises ModelError: there are none, one is damaged or truncated, or one that others speak of is missing.
    """
    paths = tuple(sorted(directory.glob("*.safetensors")))
    if not paths:
        raise ModelError(_no_weights(directory))
    _require_parts(directory, {path.name for path in paths})
    suffixes: set[str] = set()
    sizes: Counter[str] = Counter()
    for path in paths:
        for name, (dtype, size) in _read_header(path).items():
            suffixes.add(name.rpartition(".")[2])
            sizes[dtype] += size
    return TensorFiles(paths, frozenset(suffixes), dict(sizes))


def _no_weights(directory: Path) -> str:
    others = sorted(path.name for pattern in ("*.gguf", "*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if others:
        return f"{directory} holds {others[0]} but no *.safetensors: convert the model to safetensors or EXL2 first."
    return f"{directory} holds no *.safetensors: the download is incomplete, fetch the model again."


def _require_parts(directory: Path, present: set[str]) -> None:
    """Every part that a numbered name or the index speaks of must be there.

    An index none of whose files exist is ignored: EXL2 directories often keep that of the model they were made from.
    """
    wanted: set[str] = set()
    for name in present:
        match = _PART.match(name)
        if match is not None:
            parts = int(match["parts"])
            wanted.update(f"{match['stem']}-{part:05d}-of-{match['parts']}.safetensors" for part in range(1, parts + 1))
    indexed = _indexed_files(directory / INDEX_NAME)
    if indexed & present:
        wanted |= indexed
    missing = sorted(wanted - present)
    if missing:
        raise ModelError(
            f"{directory} lacks {len(missing)} of its {len(wanted)} weight files ({missing[0]}): "
            "the download is incomplete, fetch the model again."
        )


def _indexed_files(path: Path) -> set[str]:
    if not path.exists():
        return set()
    try:
        files: Iterable[object] = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} is damaged: fetch it again.") from None
    return {str(name) for name in files}


def _read_header(path: Path) -> dict[str, tuple[str, int]]:
    """Type and size in bytes of every tensor in the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(len(_LFS_POINTER))
            if first == _LFS_POINTER:
                raise ModelError(f"{path} is a Git LFS pointer, not weights: run `git lfs pull` in its directory.")
            length = int.from_bytes(first[:8], "little")
            if len(first) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{path} is not a whole safetensors file: fetch it again.")
            file.seek(8)
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        spans = {name: (str(entry["dtype"]), *entry["data_offsets"]) for name, entry in header.items()}
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} has a damaged safetensors header: fetch it again.") from None
    end = max((stop for _, _, stop in spans.values()), default=0)
    if 8 + length + end > size:
        raise ModelError(
            f"{path} is truncated ({size:,} of {8 + length + end:,} bytes): the download is incomplete, fetch it again."
        )
    return {name: (dtype, stop - start) for name, (dtype, start, stop) in spans.items()}
