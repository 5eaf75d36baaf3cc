"""Ray's own autoscaler round nodes of this machine.

`ray.cluster_utils.AutoscalingCluster` cannot be used as it is installed: it reads an example that is not in the wheel,
and ends every Ray of the machine before and after it. Here it gets its configuration, and ends what it has started.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG
from ray.cluster_utils import AutoscalingCluster

from actors.errors import ConfigurationError
from actors.ray_checks import require_cluster
from tests.listeners import HOST, free_port
from tests.processes import marked, marked_environment

UP_WITHIN_S = 90.0
END_S = 10.0


class OwnAutoscalingCluster(AutoscalingCluster):
    """A head without a GPU, and nodes of the given types, which the autoscaler starts and ends by demand. All of its
    processes carry `mark`; `folder` holds their files, and its path must be short."""

    def __init__(self, node_types: dict[str, Any], *, mark: str, folder: Path, idle_s: float) -> None:
        self._mark, self._folder, self._idle_s = mark, folder, idle_s
        self._port = free_port()
        super().__init__(head_resources={"CPU": 0}, worker_node_types=node_types)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._port}"

    def _generate_config(
        self, head_resources: Any, worker_node_types: Any, autoscaler_v2: Any = False, **_: Any
    ) -> dict[str, Any]:
        head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
        return {
            **BASE_READONLY_CONFIG,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "launch_multiple": True,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "max_workers": 4,
            "idle_timeout_minutes": self._idle_s / 60.0,
            "available_node_types": {**worker_node_types, "ray.head.default": head},
        }

    def start(self, *_: Any, **__: Any) -> None:
        """Returns when the cluster answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "autoscaling.json"
        config.write_text(json.dumps(self._config))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "0"]
        command += ["--node-ip-address", HOST, "--port", str(self._port), f"--autoscaling-config={config}"]
        command += ["--temp-dir", str(self._folder / "ray"), "--include-dashboard", "false"]
        command += ["--ray-client-server-port", str(free_port()), "--dashboard-agent-listen-port", "0"]
        environment = marked_environment(self._mark) | {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        }
        head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + UP_WITHIN_S
        while not self._answers():
            assert head.poll() is None, f"ray start ended with {head.returncode}"
            assert time.monotonic() < deadline_s, "the cluster does not answer"
            time.sleep(0.2)  # a poll, bounded by the deadline above

    def _answers(self) -> bool:
        try:
            require_cluster(self.address)
        except ConfigurationError:
            return False
        return True

    def shutdown(self) -> None:
        """End all of its processes at once, and leave none of their files."""
        deadline_s = time.monotonic() + END_S
        while processes := marked(self._mark):  # its monitor may just be starting a node
            assert time.monotonic() < deadline_s, processes
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=END_S)
        shutil.rmtree(self._folder, ignore_errors=True)
