"""What is sent of a model is what a front needs to make the same prompts, and nothing without a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.errors import ModelError
from actors.model_files import prompt_files
from actors.model_files.fingerprint import fingerprint_of
from actors.model_files.prompt_files import PROMPT_FILES, digest_here, digest_of, read_files, write_files
from actors.request.prompt import PromptEncoder

MESSAGES = [{"role": "user", "content": "Hello!"}]


def test_files_that_were_sent_make_the_same_prompts(tmp_path: Path) -> None:
    sent = read_files(builtin_model_path())
    write_files({**sent, "../escaped": b"x"}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PROMPT_FILES)
    assert not (tmp_path.parent / "escaped").exists()
    here, there = PromptEncoder.load(builtin_model_path()), PromptEncoder.load(tmp_path)
    assert there.encode(MESSAGES) == here.encode(MESSAGES)


def test_the_digest_is_one_whoever_makes_it(tmp_path: Path) -> None:
    sent = read_files(builtin_model_path())
    write_files(sent, tmp_path)
    loaded = fingerprint_of(EngineConfig(engine="cpu")).part(PROMPT_FILES)
    assert loaded == digest_of(sent) == digest_here(builtin_model_path()) == digest_here(tmp_path) != ""
    (tmp_path / "chat_template.jinja").unlink()
    assert digest_here(tmp_path) not in ("", loaded)
    (tmp_path / "tokenizer.json").unlink()
    assert digest_here(tmp_path) == ""


def test_what_cannot_be_sent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*tokenizer\.json"):
        read_files(tmp_path)
    monkeypatch.setattr(prompt_files, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="more than 1000 are not sent"):
        read_files(builtin_model_path())
