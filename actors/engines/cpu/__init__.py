"""The CPU engine: continuous batching over any causal language model of transformers."""

from actors.engines.cpu.engine import CpuEngine

__all__ = ["CpuEngine"]
