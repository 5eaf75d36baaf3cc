"""The configuration of the front: one model at the top or several below, unknown words refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.config import PoolConfig
from actors.errors import ConfigurationError
from serve_app.config import LiveSettings, ModelConfig, ServeConfig, live_settings, serve_config


def test_without_anything_it_is_the_builtin_model() -> None:
    (model,) = ServeConfig().models
    assert model.name == "builtin"
    assert model.model is None


def test_one_model_may_stand_at_the_top() -> None:
    config = serve_config(model="/models/Tiny exl2", workers="4", max_choices=3)
    assert [(model.name, model.workers) for model in config.models] == [("Tiny-exl2", 4)]
    assert config.api_limits.max_choices == 3


def test_several_models_stand_below() -> None:
    config = serve_config(models=[{"name": "org/a"}, {"name": "b", "engine": "simulated"}])
    assert [model.name for model in config.models] == ["org/a", "b"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"workerz": 2}, "workerz"),
        ({"models": [{"name": "a", "workerz": 2}]}, "workerz"),
        ({"models": [{"name": "a"}], "workers": 2}, "workers"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "name"),
        ({"models": []}, "models"),
        ({"models": [{"name": "a b"}]}, "name"),
        ({"detached": True}, "detached"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"fronts": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas"),
        ({"host": "0.0.0.0"}, "host"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        serve_config(**values)


def test_a_pool_gets_every_setting_and_a_name_of_its_own() -> None:
    model = ModelConfig(name="org/a b"[:5], workers=3, simulated={"step_s": 0.5})
    first, second = model.pool("one"), model.pool("two")
    assert type(first) is PoolConfig
    assert first.name != second.name
    assert (first.workers, first.simulated.step_s) == (3, 0.5)


def test_the_longest_name_makes_a_pool() -> None:
    assert len(ModelConfig(name="m/" * 63 + "m").pool("f" * 8).name) <= 63


def test_live_settings_change_one_by_one() -> None:
    before = LiveSettings(max_headers=20, access_log=False)
    after = live_settings(before, {"max_body_bytes": 4096, "keys_file": "keys.yaml"})
    assert (after.max_headers, after.access_log, after.max_body_bytes) == (20, False, 4096)
    assert after.keys_file == Path.cwd() / "keys.yaml"
    with pytest.raises(ConfigurationError, match="workers"):
        live_settings(before, {"workers": 2})


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://page.example",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
        "app://obsidian.md",
        "chrome-extension://abcdef",
    ],
)
def test_an_origin_that_a_browser_sends_is_right(origin: str) -> None:
    assert serve_config(cors_origins=[origin]).cors_origins == (origin,)


@pytest.mark.parametrize(
    ("origin", "meant"),
    [
        ("https://page.example/", "https://page.example"),
        ("https://page.example/app?x=1", "https://page.example"),
        ("HTTPS://Page.Example", "https://page.example"),
        ("https://page.example:443", "https://page.example"),
        (" https://page.example ", "https://page.example"),
        ("http://page.example:80/", "http://page.example"),
        ("page.example", None),
        ("localhost:3000", None),
        ("https://", None),
        ("https://*.page.example", None),
        ("https://user@page.example", None),
        ("https://page.example:99999", None),
        ("https://[::1", None),
        ("null", None),
        ("", None),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str, meant: str | None) -> None:
    with pytest.raises(ConfigurationError, match=r"is no origin such as 'https://page\.example") as caught:
        serve_config(cors_origins=["https://good.example", origin])
    assert repr(origin) in caught.value.message
    if meant is not None:
        assert f"did you mean {meant!r}?" in caught.value.message
    with pytest.raises(ConfigurationError, match="is no origin"):
        live_settings(LiveSettings(), {"cors_origins": [origin]})
