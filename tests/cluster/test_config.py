"""The file of `exlpool up`: every setting is explained, every slip of the pen is told where it stands, and the later
of file, environment and command line wins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from actors.config import PoolConfig
from actors.errors import ConfigurationError
from actors.wording import schema_of
from cluster.cli.settings import cluster_settings, pool_settings, serve_settings
from cluster.config import ClusterConfig, cluster_config, serve_document
from cluster.deploy import load_deployment
from cluster.environment import variables
from cluster.example import example
from serve_app.config import ServeConfig
from tests.cluster.conftest import Exlpool
from tests.cluster.settings_table import PAGE, page_with_tables
from tests.cluster.test_cli_arguments import plain

SIMULATED = {"engine": "simulated", "workers": 2}


def write(folder: Path, content: Any) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def fields_of(schema: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    for name, field in schema.model_fields.items():
        yield f"{schema.__name__}.{name}", field.description
        inner = schema_of(field.annotation)
        if inner is not None:
            yield from fields_of(inner)


def test_every_setting_is_described() -> None:
    assert [name for name, description in fields_of(ClusterConfig) if not description] == []


def test_the_example_is_valid_and_so_are_its_comments(exlpool: Exlpool, tmp_path: Path) -> None:
    done = exlpool("config", "--example")
    assert (done.status, done.out) == (0, example())
    assert exlpool("config", write(tmp_path, done.out)).status == 0
    _, _, body = done.out.partition("\n\n")
    everything = yaml.safe_load(re.sub(r"(?m)^(\s*)# ", r"\1", body).replace("#   ", "  "))
    settings = {name: value for name, value in everything.items() if name != "listen"}  # which fixes the fronts
    assert cluster_config(**settings) == cluster_config(models=[{"name": "builtin", "workers": 2}])
    for name in ClusterConfig.model_fields:
        assert name in everything
    assert "(fp16, q8, q6, q4)" in done.out


def test_the_schema_is_printed(exlpool: Exlpool) -> None:
    schema = json.loads(exlpool("config", "--schema").out)
    assert schema["properties"].keys() == ClusterConfig.model_fields.keys()


def test_a_file_is_checked_and_shown_as_it_is_meant(
    exlpool: Exlpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXLPOOL_WORKERS", "3")
    done = exlpool("config", write(tmp_path, {"models": [{"name": "sim", **SIMULATED}], "http": {"port": 8765}}))
    assert done.status == 0, done.err
    shown = yaml.safe_load(done.out)
    assert (shown["models"][0]["workers"], shown["http"]["port"], shown["name"]) == (3, 8765, "exlpool")
    assert exlpool("config").status == 2
    assert exlpool("config", "x.yaml", "--schema").status == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"models": [{"wokers": 2}]}, "models, entry 1: wokers is no setting, did you mean 'workers'?"),
        ({"wokers": 2}, "wokers is no setting, did you mean 'workers'?"),
        ({"htpp": {}}, "htpp is no setting, did you mean 'http'?"),
        ({"http": {"prot": 1}}, "http.prot is no setting, did you mean 'port'?"),
        ({"http": {"host": "here"}}, "host must be an IP address, not 'here'"),
        ({"models": [{}], "workers": 2}, "workers is a setting of one model"),
        ({"workers": 2, "min_workers": 3}, "workers is from min_workers, 3, to max_workers, 2, not 2"),
        ({"name": "a b"}, "name must be at most 63 letters"),
        ({"applications": []}, "has `applications`, so it is for `exlpool deploy`."),
        ({"http": {"host": "0.0.0.0"}}, "Without keys a server listens on this machine only"),
        ({"model": "some/where"}, "`hf download some/where` would do that"),
    ],
)
def test_a_slip_of_the_pen_is_told(exlpool: Exlpool, tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    file = write(tmp_path, settings)
    for arguments in (["config", file], ["up", file, "--check"]):
        done = exlpool(*arguments)
        assert (done.status, done.out) == (2, "")
        assert told in plain(done.err)


def test_the_later_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults, file, environment, command line; in the words of any of them, and whichever command it is."""
    in_file = {"cache_mode": "q8", "max_batch_size": 8, "context_tokens": 100, "exllamav2": {"draft_tokens": 2}}
    monkeypatch.setenv("EXLPOOL_MAX_BATCH_SIZE", "9")
    monkeypatch.setenv("EXLPOOL_CONTEXT_TOKENS", "101")
    monkeypatch.setenv("EXLPOOL_EXLLAMAV2__GPU_SPLIT", "20,24")
    monkeypatch.setenv("EXLPOOL_EXLLAMAV2__DRAFT_TOKENS", "")
    chosen = {"context_tokens": 102, "lora": tmp_path}
    file = write(tmp_path, in_file)
    for settings in (
        pool_settings(file, chosen),
        serve_settings(file, chosen)[0].models[0],
        cluster_settings(file, chosen).models[0],
        cluster_settings(write(tmp_path, {"models": [in_file]}), chosen).models[0],
    ):
        assert isinstance(settings, PoolConfig)
        assert (settings.chunk_tokens, settings.cache_mode) == (512, "q8")
        assert (settings.max_batch_size, settings.context_tokens) == (9, 102)
        assert settings.exllamav2.gpu_split == (20.0, 24.0)
        assert (settings.exllamav2.draft_tokens, settings.exllamav2.lora) == (2, tmp_path)


def test_a_file_for_up_is_one_for_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"name": "app", "models": [{"name": "m", **SIMULATED}], "http": {"port": 8100}})
    settings, http = serve_settings(file, {})
    assert isinstance(settings, ServeConfig)
    assert (settings.models[0].name, http.port, http.host) == ("m", 8100, "127.0.0.1")
    monkeypatch.setenv("EXLPOOL_HTTP__PORT", "8101")
    assert serve_settings(file, {})[1].port == 8101
    assert serve_settings(None, {})[1].port == 8101


def test_the_environment_is_checked_as_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"http": {"port": 8100}})
    monkeypatch.setenv("EXLPOOL_HTTP__PORT", "many")
    with pytest.raises(ConfigurationError, match=r"^EXLPOOL_HTTP__PORT: http.port must be a whole number, not 'many'"):
        cluster_settings(file, {})
    monkeypatch.setenv("EXLPOOL_HTTP__PORT", "8101")
    assert cluster_settings(file, {}).http.port == 8101
    monkeypatch.setenv("EXLPOOL_WORKERS", "2")
    several = write(tmp_path, {"models": [{"name": "a"}, {"name": "b"}]})
    with pytest.raises(ConfigurationError, match=r"EXLPOOL_WORKERS does not go with .* lists several `models`"):
        cluster_settings(several, {})
    monkeypatch.delenv("EXLPOOL_WORKERS")
    with pytest.raises(ConfigurationError, match=r"--cache-mode does not go with .* lists several `models`"):
        cluster_settings(several, {"cache_mode": "q4"})


def test_what_looks_like_a_setting_of_the_environment_is_told() -> None:
    environment = {"EXLPOOL_WOKERS": "2", "EXLPOOL_PORT": "tcp://10.0.0.1:8000", "OTHER": "x", "EXLPOOL_MODELS": "[{}]"}
    found, strange = variables(environment)
    assert [(one.name, one.place, one.value) for one in found] == [("EXLPOOL_MODELS", ("models",), [{}])]
    assert strange[0].startswith("EXLPOOL_PORT of the environment is no setting and is not used")
    assert (
        strange[1] == "EXLPOOL_WOKERS of the environment is no setting and is not used; did you mean EXLPOOL_WORKERS?"
    )


def test_what_serve_is_told_is_what_the_file_says(tmp_path: Path) -> None:
    """`exlpool deploy` takes it too, and a change of live settings is none of the application's own."""
    config = cluster_config(models=[{"name": "m", **SIMULATED}], drain_s=5.0, http={"port": 8100}, access_log=False)
    document = serve_document(config)
    assert load_deployment(write(tmp_path, document)) == document
    (application,) = document["applications"]
    assert application["args"] == {"models": [{"name": "m", **SIMULATED}], "drain_s": 5.0}
    assert application["deployments"][0]["user_config"]["access_log"] is False
    assert document["http_options"] == {"host": "127.0.0.1", "port": 8100}


def test_a_model_that_was_downloaded_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--org--tiny"
    for revision, commit in (("main", "a" * 40), ("4.0bpw", "b" * 40)):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (model,) = cluster_config(model="org/tiny").models
    assert (model.name, model.model) == ("tiny", cache / "snapshots" / ("a" * 40))
    (model,) = cluster_config(model="org/tiny@4.0bpw").models
    assert (model.name, model.model) == ("tiny-4.0bpw", cache / "snapshots" / ("b" * 40))
    with pytest.raises(ConfigurationError, match=r"`hf download org/tiny --revision 5.0bpw` would do that"):
        cluster_config(model="org/tiny@5.0bpw")
    with pytest.raises(ConfigurationError, match=r"exllamav2.draft_model: 'org/none' is no directory"):
        cluster_config(exllamav2={"draft_model": "org/none"})


def test_the_page_of_settings_is_as_the_settings_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_tables(page), "run `python -m tests.cluster.settings_table`"
    (example_file,) = re.findall(r"(?s)```yaml\n(.*?)```", page)
    assert len(cluster_config(**yaml.safe_load(example_file)).models) == 2
