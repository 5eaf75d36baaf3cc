"""What workers run is decided by the configuration, the weights and the cluster, never by the machine that decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from actors import engine_choice, ray_nodes
from actors.cluster_room import Growth
from actors.config import PoolConfig, pool_config
from actors.engine_choice import decide_engine
from actors.engines import registry
from actors.errors import ConfigurationError, ModelError
from actors.worker_starter import claim_of_worker
from serve_app.config import ModelConfig
from tests.engines.model_files import HALF, WORDS, write_model


@pytest.fixture
def exl2(tmp_path: Path) -> Path:
    return write_model(tmp_path / "exl2", x__q_weight=WORDS, y__weight=HALF)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_model(tmp_path / "plain")


def node(name: str, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": 2.0} | ({"GPU": gpus} if gpus else {})
    labels = {"place": name}
    return {
        "NodeID": name,
        "NodeManagerAddress": f"10.0.0.{name}",
        "Alive": alive,
        "Resources": resources,
        "Labels": labels,
    }


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Its nodes; this process is on the first one, which has no GPU and no exllamav2."""
    nodes = [node("1")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_nodes, "own_node_id", lambda: "1")
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", dict)
    monkeypatch.setattr(engine_choice, "node_types", lambda: None)
    monkeypatch.setattr(engine_choice, "growth", lambda: Growth.BY_HAND)
    monkeypatch.setattr(registry, "exllamav2_installed", lambda: False)
    monkeypatch.setattr(registry, "gpu_visible", lambda: False)
    return nodes


def decided(**settings: Any) -> tuple[str, float]:
    config = decide_engine(pool_config(**settings))
    return config.engine, claim_of_worker(config).gpus


def test_an_engine_that_is_named_is_believed(cluster: list[dict[str, Any]], tmp_path: Path, plain: Path) -> None:
    assert decided(engine="exllamav2", model=tmp_path / "none") == ("exllamav2", 1.0)
    assert decided(engine="exllamav2", model=plain, gpus_per_worker=0.5) == ("exllamav2", 0.5)
    assert decided(engine="cpu", model=tmp_path / "none") == ("cpu", 0.0)
    assert decided(engine="simulated") == ("simulated", 0.0)
    cluster.append(node("2", gpus=4))
    assert decided(engine="cpu", model=plain) == ("cpu", 0.0)


def test_weights_decide_and_for_plain_ones_whether_the_cluster_has_gpus(
    cluster: list[dict[str, Any]], plain: Path, exl2: Path
) -> None:
    assert decided(model=plain) == ("cpu", 0.0)
    cluster.append(node("2", gpus=1, alive=False))
    assert decided(model=plain) == ("cpu", 0.0)
    assert decided(model=exl2) == ("exllamav2", 1.0), "a node with a GPU may still join"
    cluster.append(node("3", gpus=2))
    assert decided(model=plain) == ("exllamav2", 1.0)
    assert decided(model=exl2, gpus_per_worker=2) == ("exllamav2", 2.0)
    assert decided(model=plain, gpus_per_worker=0) == ("cpu", 0.0)
    assert decided(model=plain, node_labels={"place": "3"}) == ("exllamav2", 1.0)
    assert decided(model=plain, node_labels={"place": "1"}) == ("cpu", 0.0)


def test_a_private_cluster_without_a_gpu_never_gets_one(
    cluster: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, exl2: Path
) -> None:
    monkeypatch.setattr(engine_choice, "growth", lambda: Growth.NEVER)
    with pytest.raises(ModelError, match="needs an NVIDIA GPU, and this machine has none"):
        decided(model=exl2)
    cluster[0] = node("1", gpus=1)
    assert decided(model=exl2) == ("exllamav2", 1.0)


def test_gpus_that_the_autoscaler_could_add_count(
    cluster: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, plain: Path
) -> None:
    monkeypatch.setattr(engine_choice, "node_types", lambda: ({"CPU": 8.0},))
    assert decided(model=plain) == ("cpu", 0.0)
    monkeypatch.setattr(engine_choice, "node_types", lambda: ({"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}))
    assert decided(model=plain) == ("exllamav2", 1.0)


def test_the_built_in_model_needs_nothing_that_is_not_installed(
    cluster: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.append(node("2", gpus=1))
    assert decided() == ("cpu", 0.0)
    monkeypatch.setattr(registry, "exllamav2_installed", lambda: True)
    assert decided() == ("exllamav2", 1.0)


@pytest.mark.usefixtures("cluster")
def test_what_cannot_work_is_refused_at_once(plain: Path, exl2: Path, tmp_path: Path) -> None:
    for engine in ("auto", "exllamav2"):
        with pytest.raises(ConfigurationError, match="`gpus_per_worker` 0"):
            decided(model=exl2, engine=engine, gpus_per_worker=0)
    with pytest.raises(ModelError, match="CPU engine cannot read"):
        decided(model=exl2, engine="cpu")
    with pytest.raises(ModelError, match="There is no model directory"):
        decided(model=tmp_path / "none")


def test_a_model_that_is_elsewhere_is_looked_at_there_on_nodes_with_gpus_first(
    cluster: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, exl2: Path, tmp_path: Path
) -> None:
    cluster += [node("2"), node("3", gpus=1), node("4", alive=False)]
    asked: list[str] = []

    def asked_of(nodes: list[dict[str, Any]], look: Any, path: Path) -> Any:
        assert path == tmp_path / "elsewhere"
        for each in nodes:
            asked.append(each["NodeID"])
            yield look(exl2) if each["NodeID"] == "2" else None

    monkeypatch.setattr(engine_choice, "asked_of", asked_of)
    assert decided(model=tmp_path / "elsewhere") == ("exllamav2", 1.0)
    assert asked == ["3", "2"]
    monkeypatch.setattr(engine_choice, "asked_of", lambda nodes, look, path: iter([None, None]))
    with pytest.raises(ModelError, match=r"neither here nor on another node \(10\.0\.0\.3, 10\.0\.0\.2\)"):
        decided(model=tmp_path / "elsewhere")


@pytest.mark.usefixtures("cluster")
def test_what_was_decided_does_not_count_as_set(plain: Path) -> None:
    config: PoolConfig
    for config in (pool_config(model=plain), pool_config(model=plain, engine="auto"), ModelConfig(model=plain)):
        chosen = decide_engine(config)
        assert chosen.engine == "cpu"
        assert "engine" not in chosen.model_dump(exclude_unset=True)
        assert decide_engine(chosen) == chosen
    assert decide_engine(pool_config(engine="cpu")).model_dump(exclude_unset=True)["engine"] == "cpu"
