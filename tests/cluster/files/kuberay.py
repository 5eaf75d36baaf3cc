"""KubeRay's definition of a RayService as a JSON schema that refuses what Kubernetes would drop or refuse."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent / "kuberay-rayservice-v1.7.0.json.xz"


@cache
def rayservice_schema() -> dict[str, Any]:
    strict: dict[str, Any] = _strict(json.loads(lzma.decompress(SCHEMA.read_bytes())))
    strict["required"] = ["apiVersion", "kind", "metadata", "spec"]
    strict["properties"] |= {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayService"},
        "metadata": {"type": "object", "required": ["name"]},
    }
    return strict


def part_of_schema(*path: str) -> dict[str, Any]:
    """The schema of what Kubernetes itself defines, where a RayService holds it: `items` goes into a list."""
    part = rayservice_schema()
    for name in path:
        part = part["items"] if name == "items" else part["properties"][name]
    return part


def faults(schema: dict[str, Any], document: Any) -> list[str]:
    """What is wrong, each with its place; none: nothing."""
    found = Draft202012Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in found]


def _strict(part: Any) -> Any:
    """The same schema in JSON schema's own words: an unknown key is a fault, and a number may be written as a text
    where Kubernetes says so. An empty value of a key that may be null is fine there, too."""
    if isinstance(part, list):
        return [_strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    strict = {key: _strict(value) for key, value in part.items()}
    if strict.get("x-kubernetes-int-or-string") is True:
        strict = {key: value for key, value in strict.items() if key not in ("type", "anyOf")}
        strict["type"] = ["integer", "string"]
    if isinstance(strict.get("properties"), dict) and "type" in strict:
        preserved = strict.get("x-kubernetes-preserve-unknown-fields") is True
        strict.setdefault("additionalProperties", preserved)
    if strict.get("nullable") is True:
        strict["type"] = [strict["type"], "null"]
    return strict
