"""When a CUDA context is useless: after certain errors, and whenever it says so itself."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

_POISON = (
    "illegal memory access",
    "illegal instruction",
    "device-side assert",
    "misaligned address",
    "unspecified launch failure",
    "invalid program counter",
    "launch timed out",
    "unknown error",
    "uncorrectable ECC",
    "hardware stack error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
)
"""Sticky errors: after one of these every later CUDA call of the process fails. Source: CUDA Runtime API, cudaError_t,
the codes that say "the process must be terminated and relaunched"."""


def is_fatal(error: BaseException) -> bool:
    """Whether the process must end. Running out of memory is no reason: the allocator recovers."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    text = str(error)
    return any(sign.lower() in text.lower() for sign in _POISON)


def cuda_is_lost() -> bool:
    """Whether CUDA fails in this process whatever it is asked to do, which errors that nobody has listed may lead to.

    Waiting for what was queued asks for nothing new, so it fails only if the context is beyond repair.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)
    except Exception:
        logger.exception("CUDA does not answer any more")
        return True
    return False
