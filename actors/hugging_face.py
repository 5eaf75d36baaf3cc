"""Models by their names on Hugging Face, such as `org/name` or `org/name@4.0bpw`, which is a revision of it: found
among those that were downloaded to this machine. Nothing is ever downloaded."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w.-]+))?")


def model_directory(model: Path) -> Path:
    """The absolute path of a directory, or of where a model of that name was downloaded to. Names are looked up only
    where there is no such directory.

    :raises ValueError: it is neither, for pydantic; it says how to download it.
    """
    path = model.expanduser()
    named = _NAME.fullmatch(str(model))
    if named is None or path.exists():
        return path.absolute()
    repository, revision = named["repository"], named["revision"]
    found = _downloaded(repository, revision)
    if found is None:
        wanted = repository if revision is None else f"{repository} --revision {revision}"
        raise ValueError(
            f"{str(model)!r} is no directory here, and no model of that name was downloaded from Hugging Face: "
            f"`hf download {wanted}` would do that"
        )
    return found


def _downloaded(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download  # it takes a while
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None
