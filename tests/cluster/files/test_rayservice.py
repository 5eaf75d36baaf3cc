"""`rayservice.yaml`, by KubeRay's definition, by the check of `exlpool deploy`, and by what has to agree in it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.deploy import load_deployment
from tests.cluster.conftest import Exlpool
from tests.cluster.files.deployment_files import FILES, documents, pods, rayservice, replaced
from tests.cluster.files.kuberay import faults, part_of_schema, rayservice_schema

TEXT = (FILES / "rayservice.yaml").read_text()
CLUSTER = ("spec", "rayClusterConfig")
POLICY_RULE = (*CLUSTER, "networkPolicy", "head", "ingressRules", "items")


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents("rayservice.yaml") if document["kind"] == kind]


def service_in(text: str) -> Any:
    return next(yaml.safe_load_all(text))


def test_kuberay_takes_it() -> None:
    assert faults(rayservice_schema(), rayservice()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("apiVersion: ray.io/v1\n", "apiVersion: ray.io/v2\n"),
        ("kind: RayService", "kind: RayCluster"),
        ("  serveConfigV2: |", "  serveConfig: |"),
        ("groupName: gpu", "groupname: gpu"),
        ("minReplicas: 2", "minReplicas: two"),
        ("mode: token", "mode: tokens"),
        ("secretName: exlpool-ray-token", "secret: exlpool-ray-token"),
        ("gcsFaultToleranceOptions:", "gcsFaultTolerance:"),
        ("redisAddress:", "redisAdress:"),
        ("headGroupSpec:", "headGroup:"),
        ('num-gpus: "0"', "num-gpus: 0"),
        ("name: ray-head\n", "nmae: ray-head\n"),
        ("terminationGracePeriodSeconds:", "terminationGracePeriod:"),
        ("readinessProbe:\n                  exec:", "readyProbe:\n                  exec:"),
    ],
)
def test_a_slip_of_the_pen_is_refused_by_kuberay(old: str, new: str) -> None:
    assert faults(rayservice_schema(), service_in(replaced(TEXT, old, new)))


def serve_config(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "serve.yaml"
    file.write_text(service_in(text)["spec"]["serveConfigV2"])
    return file


def test_exlpool_deploys_what_it_serves(tmp_path: Path) -> None:
    document = load_deployment(serve_config(tmp_path, TEXT))
    assert document["proxy_location"] == "EveryNode", "pods that do not answer are not ready"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_body_bytes: 16777216", "max_ongoing_request: 5", "max_ongoing_request"),
        ("            user_config:", "            user_conf:", "user_conf"),
        ("              workers: 2", "              worker: 2", "worker"),
        ("          keys_file: /etc/exlpool/keys.yaml\n", "", "Without keys"),
        ("engine: exllamav2", "engine: exllamav3", "engine"),
        ("proxy_location:", "proxylocation:", "proxylocation"),
    ],
)
def test_a_slip_of_the_pen_is_told_by_exlpool(exlpool: Exlpool, tmp_path: Path, old: str, new: str, told: str) -> None:
    done = exlpool("deploy", serve_config(tmp_path, replaced(TEXT, old, new)), "--check")
    assert done.status == 2
    assert told in done.err


def test_there_is_room_for_what_it_serves() -> None:
    (application,) = yaml.safe_load(rayservice()["spec"]["serveConfigV2"])["applications"]
    (model,) = application["args"]["models"]
    fronts = application["args"]["fronts"]
    (group,) = rayservice()["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert model["workers"] == group["replicas"] * int(limits["nvidia.com/gpu"])
    assert fronts["min_replicas"] == fronts["max_replicas"] == group["replicas"]
    per_pod = fronts["cpus"] + model.get("cpus_per_worker", 1) * int(limits["nvidia.com/gpu"])
    assert per_pod <= int(limits["cpu"])


def test_the_head_has_no_gpu_and_gives_no_cpu() -> None:
    head = rayservice()["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert "gpu" not in str(head["template"]["spec"]["containers"][0]["resources"])


def test_every_path_and_volume_is_mounted() -> None:
    (application,) = yaml.safe_load(rayservice()["spec"]["serveConfigV2"])["applications"]
    wanted = [Path(application["args"]["keys_file"]), *(Path(one["model"]) for one in application["args"]["models"])]
    for template in pods(rayservice()).values():
        (container,) = template["spec"]["containers"]
        mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in template["spec"]["volumes"]}
        assert all(any(path.is_relative_to(mount) for mount in mounts.values()) for path in wanted)
        assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_the_images_have_the_ray_that_was_tested() -> None:
    assert rayservice()["spec"]["rayClusterConfig"]["rayVersion"] == version("ray")


def test_kubernetes_takes_redis_and_the_policies() -> None:
    """By the schemas of pods, services and rules that KubeRay's definition holds."""
    (redis,) = of_kind("Deployment")
    assert faults(part_of_schema(*CLUSTER, "headGroupSpec", "template"), redis["spec"]["template"]) == []
    assert set(redis["spec"]) == {"replicas", "strategy", "selector", "template"}
    (service,) = of_kind("Service")
    assert faults(part_of_schema("spec", "serveService", "spec"), service["spec"]) == []
    policies = of_kind("NetworkPolicy")
    assert all(set(one["spec"]) == {"podSelector", "policyTypes", "ingress"} for one in policies)
    rules = [rule for policy in policies for rule in policy["spec"]["ingress"]]
    assert [fault for rule in rules for fault in faults(part_of_schema(*POLICY_RULE), rule)] == []


def test_redis_is_found_where_ray_looks_for_it() -> None:
    options = rayservice()["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    (redis,), (service,), (volume,) = of_kind("Deployment"), of_kind("Service"), of_kind("PersistentVolumeClaim")
    (port,) = service["spec"]["ports"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == redis["spec"]["selector"]["matchLabels"] == labels
    pod = redis["spec"]["template"]["spec"]
    assert pod["containers"][0]["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"], "the same password"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    (policy,) = (one for one in of_kind("NetworkPolicy") if one["spec"]["podSelector"].get("matchLabels") == labels)
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["port"]}]


def test_no_pod_runs_as_root() -> None:
    (redis,) = of_kind("Deployment")
    for template in (*pods(rayservice()).values(), redis["spec"]["template"]):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
