"""One Ray cluster for the whole session, and pools that are shared by the tests of a module."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

import tests.properties  # noqa: F401 - loads the profile that makes every search of a property repeatable
from actors.ray_session import NAMESPACE, prepare_private_cluster
from tests.processes import marked

WAIT_S = 30.0
CLUSTER_CPUS = 8
"""Logical CPUs of the test cluster: more than the machine may have, since most test workers only sleep."""


def pytest_configure() -> None:
    """A shell starts what runs in the background with interrupts ignored, and processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray cluster of this test session, gone with it."""
    import ray

    prepare_private_cluster()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=CLUSTER_CPUS,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    address = ray.get_runtime_context().gcs_address
    yield
    assert ray.is_initialized(), "a test has ended the cluster of the session"
    assert ray.get_runtime_context().gcs_address == address, "a test has put a cluster of its own in its place"
    ray.shutdown()


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for `tests.processes`; what still carries it after the test is killed."""
    name = uuid.uuid4().hex
    yield name
    for process in marked(name):
        process.kill()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition with a deadline."""

    def wait(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                pytest.fail(f"not within {timeout_s:.0f} s: {condition}")
            time.sleep(0.05)  # a poll, bounded by the deadline above

    return wait
