"""The files that people copy, and what several tests read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import cluster

FILES = Path(cluster.__file__).parent
ROOT = FILES.parent
RAY_UP = ("ray-onprem.yaml", "ray-aws.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    """Every document of one of the files in cluster/."""
    return list(yaml.safe_load_all((FILES / name).read_text()))


def replaced(text: str, old: str, new: str) -> str:
    """The text with a slip of the pen, which has exactly one place in it."""
    assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
    return text.replace(old, new)


def rayservice() -> dict[str, Any]:
    (found,) = (document for document in documents("rayservice.yaml") if document["kind"] == "RayService")
    return found


def pods(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayService, by the group's name."""
    cluster_config = document["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group["template"] for group in cluster_config["workerGroupSpecs"]}
    return {"head": cluster_config["headGroupSpec"]["template"], **groups}
