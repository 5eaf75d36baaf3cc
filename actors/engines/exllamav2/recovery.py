"""Which exceptions leave a CUDA context useless."""

from __future__ import annotations

import torch

_POISON = (
    "illegal memory access",
    "illegal instruction",
    "device-side assert",
    "misaligned address",
    "unspecified launch failure",
    "invalid program counter",
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
