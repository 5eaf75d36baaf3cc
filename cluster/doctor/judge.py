"""From the facts of one machine, or of all nodes of a cluster, to findings. Pure: it asks nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.doctor.facts import Machine
from cluster.doctor.findings import Finding, Level, missing, ok, warning
from cluster.doctor.judge_driver import judge_driver, judge_ray_gpus, no_gpu, unused_gpu
from cluster.doctor.judge_libraries import judge_libraries, judge_torch_for_cpus
from cluster.doctor.judge_model import judge_models, needs_gpu_worker
from cluster.doctor.judge_system import judge_system, judge_temp_dir, judge_variables
from cluster.doctor.wanted import Wanted

CLOCK_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster, and what it answered. `machine` None: nothing, and `silence` says why. `clock_ahead_s` is
    how far its clock is before the one of who asked, `gpus_of_ray` how many GPUs Ray counts on it."""

    name: str
    machine: Machine | None
    silence: str = ""
    clock_ahead_s: float = 0.0
    gpus_of_ray: float = 0.0


def judge_machine(machine: Machine, wanted: Wanted) -> tuple[Finding, ...]:
    """A machine by itself: it has to host all that is wanted."""
    must = wanted.gpu or (wanted.gpu is None and needs_gpu_worker(machine, wanted))
    return (judge_temp_dir(machine), *_judge(machine, wanted, gpu_required=bool(must)))


def judge_node(node: Node, wanted: Wanted) -> tuple[Finding, ...]:
    """A node of a cluster, which need not host GPU workers: others may."""
    if node.machine is None:
        cure = "See that the node is up and that its Ray can start a process (`ray status`, its raylet.log)."
        return (missing("answer", node.silence, cure),)
    findings = _judge(node.machine, wanted, gpu_required=False)
    if wanted.gpu_worker_on(node.machine):
        findings += judge_ray_gpus(node.machine, node.gpus_of_ray)
    return (*findings, judge_variables(node.machine), _clock(node))


def judge_cluster(nodes: Sequence[Node], wanted: Wanted) -> tuple[Finding, ...]:
    """What concerns the nodes together."""
    machines = [node.machine for node in nodes if node.machine is not None]
    findings = [_same("Python", [machine.python for machine in machines], "Use one Python version on all nodes.")]
    findings.append(_same("Ray", [str(machine.ray) for machine in machines], "Install one Ray version on all nodes."))
    capable = sum(wanted.gpu_worker_on(machine) for machine in machines)
    must = wanted.gpu or any(needs_gpu_worker(machine, wanted) for machine in machines)
    if capable:
        findings.append(ok("GPUs", f"on {capable} of {len(nodes)} nodes"))
    elif must and wanted.gpu is not False:
        findings.append(
            missing("GPUs", "on no node", "Join a machine with a GPU: `ray start --address=HEAD:6379` there.")
        )
    return tuple(findings)


def all_good(findings: Sequence[Finding]) -> bool:
    return all(finding.level is not Level.MISSING for finding in findings)


def _judge(machine: Machine, wanted: Wanted, *, gpu_required: bool) -> tuple[Finding, ...]:
    findings = judge_system(machine, wanted.exlpool)
    if wanted.gpu_worker_on(machine) or (gpu_required and machine.nvidia.hardware > 0):
        driver = judge_driver(machine)
        usable = all_good(driver)
        findings += (*driver, *judge_libraries(machine, gpus_usable=usable))
        gpus = machine.visible_gpus if usable else ()
        return (*findings, *judge_models(machine, wanted, gpus))
    there = machine.nvidia.hardware > 0 and not gpu_required
    gpu = unused_gpu(machine) if there else no_gpu(wanted=gpu_required)
    return (*findings, gpu, *judge_torch_for_cpus(machine.libraries), *judge_models(machine, wanted, None))


def _clock(node: Node) -> Finding:
    if abs(node.clock_ahead_s) <= CLOCK_TOLERANCE_S:
        return ok("clock", "as here")
    way = "ahead of" if node.clock_ahead_s > 0 else "behind"
    return warning(
        "clock",
        f"about {abs(node.clock_ahead_s):.0f} s {way} the machine that asks",
        "Let a time service set it (chrony, systemd-timesyncd), or times in logs will not fit together.",
    )


def _same(what: str, versions: Sequence[str], cure: str) -> Finding:
    counted = Counter(versions)
    if len(counted) <= 1:
        return ok(what, f"the same on all nodes{f' ({versions[0]})' if versions else ''}")
    told = ", ".join(f"{version} on {count}" for version, count in counted.most_common())
    return missing(what, f"differs between nodes: {told}", cure)
