"""The Dockerfile by its linter, and by what it names: paths, scripts, versions and extras that exist."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tests.cluster.files.deployment_files import FILES, ROOT, pods, rayservice, replaced

DOCKERFILE = FILES / "Dockerfile"
TEXT = DOCKERFILE.read_text()
INSTALL = (FILES / "install.sh").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
HADOLINT = Path(sys.executable).with_name("hadolint")
COPY = re.compile(r"^COPY (?!--from)(.+) (\S+)$", re.MULTILINE)


def lint(text: str) -> str:
    done = subprocess.run([HADOLINT, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def copied() -> list[str]:
    return [path for paths, _ in COPY.findall(TEXT) for path in paths.split()]


def test_the_linter_has_nothing_to_say() -> None:
    assert lint(TEXT) == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("WORKDIR /source", "WORKDIR source", "DL3000"),
        ('SHELL ["/bin/bash", "-o", "pipefail", "-c"]', "SHEL bash", "unexpected"),
        ("COPY --from=build", "COPY --from=bild", "DL3022"),
        ("RUN cluster/install.sh /opt/exlpool engine", "RUN cd cluster && ./install.sh", "DL3003"),
        ('ENTRYPOINT ["tini", "--"]', "ENTRYPOINT tini --", "DL3025"),
    ],
)
def test_the_linter_looks(old: str, new: str, told: str) -> None:
    assert told in lint(replaced(TEXT, old, new))


def test_what_it_copies_is_there_and_not_kept_from_it() -> None:
    assert len(copied()) == 8
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored(PurePosixPath(path)), path


@pytest.mark.parametrize("path", [".git/config", ".venv/bin/python", "models/a/model.safetensors", "keys/keys.yaml"])
def test_what_is_none_of_its_business_stays_outside(path: str) -> None:
    assert ignored(PurePosixPath(path))


def ignored(path: PurePosixPath) -> bool:
    """As Docker decides it: the last line that fits the path, or a folder above it, counts."""
    fits = False
    for line in (line for line in IGNORED if line and not line.startswith("#")):
        pattern = line.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatchcase(str(one), pattern) for one in (path, *path.parents) if str(one) != "."):
            fits = not line.startswith("!")
    return fits


def test_every_variable_that_it_sets_is_one_of_the_installation() -> None:
    for name in re.findall(r"^ARG (\w+)", TEXT, re.MULTILINE):
        assert name in INSTALL or name in ("UBUNTU_VERSION", "CUDA_VERSION"), name
    for name in ("TORCH_CUDA_ARCH_LIST", "FLASH_ATTN_CUDA_ARCHS", "MAX_JOBS"):
        (of_image,) = re.findall(rf'^ARG {name}="?([^"\n]*)"?$', TEXT, re.MULTILINE)
        (of_script,) = re.findall(rf"{name}=\${{{name}:-([^}}]*)}}", INSTALL)
        assert of_image == of_script, name


def test_the_toolkit_is_that_of_torch() -> None:
    (toolkit,) = re.findall(r"^ARG CUDA_VERSION=(\d+)\.(\d+)", TEXT, re.MULTILINE)
    (index,) = re.findall(r"CUDA_INDEX:-cu(\d+)}", INSTALL)
    assert "".join(toolkit) == index


def test_the_installation_names_extras_and_versions_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r"'\[(\w+)\]'", INSTALL)
    assert extra in project["optional-dependencies"]
    (wanted,) = project["optional-dependencies"][extra]
    (built,) = re.findall(r"EXLLAMAV2_VERSION:-([\d.]+)}", INSTALL)
    assert f">={built}," in wanted
    assert f"\nexllamav2=={built}\n" in (ROOT / "constraints.txt").read_text()


def test_it_runs_as_somebody_and_says_how_it_is() -> None:
    final = TEXT[TEXT.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (\d+)$", final, re.MULTILINE)
    assert f"--uid {user} " in final
    assert {template["spec"]["securityContext"]["runAsUser"] for template in pods(rayservice()).values()} == {int(user)}
    assert "HEALTHCHECK" in final
    assert "http://127.0.0.1:8000/health" in final
