"""The files that fronts make prompts with, for a front on a node that has no copy of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from actors.errors import ModelError
from actors.model_files.fingerprint import fingerprint_of_files, joined

TOKENIZER_FILES = ("tokenizer.json",)
"""What makes token ids: models that differ in them understand each other's prompts differently."""
PROMPT_FILES = (*TOKENIZER_FILES, "tokenizer_config.json", "chat_template.jinja")
"""All that `actors.request.prompt` reads of a model directory."""
MAX_BYTES = 64 * 1024 * 1024
"""Of all of them together, when they are sent."""


def digest_here(directory: Path) -> str:
    """That of the files of a directory; empty: it has no tokenizer.

    :raises ModelError: one cannot be read.
    """
    if not (directory / TOKENIZER_FILES[0]).is_file():
        return ""
    return fingerprint_of_files(directory, PROMPT_FILES).part(PROMPT_FILES)


def digest_of(files: Mapping[str, bytes]) -> str:
    """As `digest_here`, of files that were sent."""
    return joined(tuple((name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)))


def read_files(directory: Path) -> dict[str, bytes]:
    """The files that are there, to be sent.

    :raises ModelError: there is no tokenizer, a file cannot be read, or they are larger than MAX_BYTES.
    """
    paths = [directory / name for name in PROMPT_FILES if name in TOKENIZER_FILES or (directory / name).is_file()]
    try:
        total_bytes = sum(path.stat().st_size for path in paths)
        if total_bytes > MAX_BYTES:
            raise ModelError(
                f"The tokenizer files of {directory} have {total_bytes} bytes, and more than {MAX_BYTES} are not sent: "
                "put the model at the same path of the node that asks."
            )
        return {path.name: path.read_bytes() for path in paths}
    except OSError as error:
        raise ModelError(f"Cannot read {error.filename}: {error.strerror}.") from None


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write what was sent; names that are not expected are left out."""
    for name in PROMPT_FILES:
        if name in files:
            (directory / name).write_bytes(files[name])
