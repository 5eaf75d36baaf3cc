"""Which pool is meant by a name."""

from __future__ import annotations

import pytest

from actors.config import POOL_NAME
from actors.pool_names import closed_words, model_of_pool, new_life, pools_meant, served_pool_name

KEY = "0123456789"


def served(model: str, life: str, key: str = KEY) -> str:
    return served_pool_name(model, f"{key}-{life}")


OLD, NEW = served("org/llama 3", "000000001"), served("org/llama 3", "00000000a", "9876543210")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("org/llama 3", [NEW, OLD]),
        ("org-llama-3", [NEW, OLD]),
        (OLD, [OLD]),
        ("stories", ["stories"]),
        ("llama", []),
        ("org", []),
        ("stories.worker-0", []),
    ],
)
def test_a_pool_is_meant_by_its_own_name_or_by_its_models(name: str, meant: list[str]) -> None:
    assert pools_meant(name, ["stories", OLD, NEW, served("llama-3", "000000002")]) == meant


def test_a_pool_of_the_very_name_goes_before_those_of_a_model() -> None:
    assert pools_meant("llama", [served("llama", "000000001"), "llama"]) == ["llama"]


def test_the_longest_name_of_a_model_makes_a_name_of_a_pool() -> None:
    name = served("m" * 128, new_life())
    assert POOL_NAME.fullmatch(name)
    assert pools_meant("m" * 128, [name]) == [name]


def test_a_later_life_is_greater() -> None:
    lives = [new_life() for _ in range(3)]
    assert lives == sorted(lives)
    assert served("m", lives[0]) == f"m.{KEY}-{lives[0]}"


def test_who_used_a_pool_that_was_closed_is_told_where_to_go() -> None:
    assert closed_words("stories") == "The pool was closed."
    assert "Pool.connect('org-llama-3') finds the one that serves now" in closed_words(OLD)
    assert model_of_pool(OLD) == "org-llama-3"
    assert model_of_pool("stories") == "stories"
