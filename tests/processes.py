"""Processes of a test, found by a mark in their environment that all their children inherit."""

from __future__ import annotations

import os

import psutil

MARK_NAME = "TEST_MARK_OF_EXLPOOL"


def marked_environment(mark: str) -> dict[str, str]:
    """This process's environment with the mark, without a cluster that somebody named, and without what Ray in this
    process has put there of its own cluster."""
    environment = {**os.environ, MARK_NAME: mark}
    environment.pop("RAY_ADDRESS", None)
    environment.pop("RAY_AUTH_MODE", None)
    return environment


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that carry the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_NAME) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
