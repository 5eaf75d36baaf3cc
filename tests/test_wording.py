"""What pydantic finds wrong is told in the words of whoever wrote the YAML, and in no others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actors.config import PoolConfig, pool_config
from actors.errors import ConfigurationError
from actors.wording import place_told, setting_error, shown
from serve_app.config import ServeConfig, serve_config

PYDANTIC = ("Input", "tuple", "should be", "Extra inputs", "permitted", "models.0", "validation", "Value error")

POOL: list[tuple[dict[str, Any], str]] = [
    ({"engine": "steam"}, "engine must be one of auto, cpu, exllamav2 or simulated, not 'steam'."),
    ({"workers": 0}, "workers must be at least 1, not 0."),
    ({"workers": 2000}, "workers must be at most 1024, not 2000."),
    ({"workers": "many"}, "workers must be a whole number, not 'many'."),
    ({"workers": 1.5}, "workers must be a whole number, not 1.5."),
    ({"workers": None}, "workers must be a whole number, not nothing."),
    ({"workers": [2]}, "workers must be a whole number, not [2]."),
    ({"cache_tokens": 1000}, "cache_tokens must be a multiple of 256, not 1000."),
    ({"max_wait_s": 0}, "max_wait_s must be above 0, not 0."),
    ({"max_wait_s": "soon"}, "max_wait_s must be a number, not 'soon'."),
    ({"detached": "perhaps"}, "detached must be true or false, not 'perhaps'."),
    ({"model": 5}, "model must be a path, not 5."),
    ({"simulated": "fast"}, "simulated must be a mapping of settings, not 'fast'."),
    ({"simulated": {"step_s": -1}}, "simulated.step_s must be at least 0, not -1."),
    ({"exllamav2": {"gpu_split": 20}}, "exllamav2.gpu_split must be a list, not 20."),
    ({"exllamav2": {"gpu_split": [20, "all"]}}, "exllamav2.gpu_split, entry 2 must be a number, not 'all'."),
    ({"workerz": 2}, "workerz is no setting, did you mean 'workers'?"),
    ({"simulated": {"step": 1}}, "simulated.step is no setting, did you mean 'step_s'?"),
    ({"colour": "red"}, "colour is no setting."),
    ({"gpus_per_worker": 1.5}, "gpus_per_worker is a fraction of one GPU or a whole number, not 1.5."),
    ({"name": "two words"}, "name must be at most 63 letters, digits, '_', '.' and '-', the first a letter or digit"),
]

SERVER: list[tuple[dict[str, Any], str]] = [
    ({"models": 5}, "models must be a list, not 5."),
    ({"models": []}, "models must be a list of at least 1 entry, not []."),
    ({"models": ["a"]}, "models, entry 1 must be a mapping of settings, not 'a'."),
    ({"models": [{}, {"engine": "steam", "name": "b"}]}, "models, entry 2: engine must be one of auto, cpu, "),
    ({"models": [{"simulated": {"step_s": "x"}}]}, "models, entry 1: simulated.step_s must be a number, not 'x'."),
    ({"models": [{"workerz": 2}]}, "models, entry 1: workerz is no setting, did you mean 'workers'?"),
    ({"models": [{"name": "a"}, {"name": "a"}]}, "models: each model needs a `name` of its own, not a, a."),
    ({"models": [{"name": "a"}], "workers": 2}, "workers is a setting of one model: beside `models` it stands in an "),
    ({"engine": "steam"}, "engine must be one of "),
    ({"workerz": 2}, "workerz is no setting, did you mean 'workers'?"),
    ({"max_chioces": 2}, "max_chioces is no setting, did you mean 'max_choices'?"),
    ({"name": "zwei Wörter"}, "name must be at most 128 letters, digits"),
    ({"default_priority": "now"}, "default_priority must be one of interactive, default or batch, not 'now'."),
    ({"fronts": 4}, "fronts must be a mapping of settings, not 4."),
    ({"fronts": {"min_replicas": 5}}, "fronts: min_replicas is at most max_replicas."),
    ({"listen": {"host": "somewhere"}}, "listen.host must be an IP address, not 'somewhere'."),
    ({"listen": {"port": 70000}}, "listen.port must be at most 65535, not 70000."),
    ({"cors_origins": "https://page.example"}, "cors_origins must be a list, not 'https://page.example'."),
]


@pytest.mark.parametrize(("values", "sentence"), POOL, ids=lambda value: str(value)[:40])
def test_of_a_pool(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pool_config(**values)
    _check(caught.value, sentence)


@pytest.mark.parametrize(("values", "sentence"), SERVER, ids=lambda value: str(value)[:40])
def test_of_a_server(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        serve_config(**values)
    _check(caught.value, sentence)


def _check(error: ConfigurationError, sentence: str) -> None:
    assert error.message.startswith(sentence)
    assert not any(word in error.message for word in PYDANTIC)
    assert error.message[-1] in ".?"
    assert "\n" not in error.message


WRONG_VALUES: tuple[Any, ...] = (None, True, -1, 0.5, 10**400, float("nan"), "x", "", b"\xff", [], [1], {}, {"a": 1})


@pytest.mark.parametrize("schema", [PoolConfig, ServeConfig])
def test_no_word_of_pydantic_is_left_over(schema: type[PoolConfig | ServeConfig]) -> None:
    """Every setting with every odd value: whichever kinds of faults there are, each has words of its own."""
    told = 0
    for name in schema.model_fields:
        for value in WRONG_VALUES:
            try:
                schema(**{name: value})
            except ValidationError as error:
                message = setting_error(error, schema).message
                assert not any(word in message for word in PYDANTIC), message
                assert "\n" not in message
                told += 1
    assert told > 3 * len(schema.model_fields)


def test_places_and_values_are_told_as_they_were_written() -> None:
    assert place_told(("models", 0, "simulated", "step_s")) == "models, entry 1: simulated.step_s"
    assert place_told((1, "tenant")) == "entry 2: tenant"
    assert (shown(None), shown(False), shown("a")) == ("nothing", "false", "'a'")
    assert len(shown("x" * 1000)) == 80
