"""The ExLlamaV2 engine: EXL2, GPTQ and unquantised models on NVIDIA GPUs. Importing this imports the library."""

from actors.engines.exllamav2.engine import ExLlamaV2Engine

__all__ = ["ExLlamaV2Engine"]
