"""ExLlamaV2 without a GPU: the real package, generator, page table, jobs and tokenizer, over a small torch model that
stands in for the CUDA forward and a pure Python module that stands in for the compiled extension.

Import this before anything that imports exllamav2.
"""

from tests.engines.exllamav2.standin.extension import install

install()

from tests.engines.exllamav2.standin.engine import make_engine, make_loaded  # noqa: E402
from tests.engines.exllamav2.standin.model import VOCAB_SIZE, StandInModel, next_logits  # noqa: E402
from tests.engines.exllamav2.standin.tokenizer import write_model_dir  # noqa: E402

__all__ = ["VOCAB_SIZE", "StandInModel", "make_engine", "make_loaded", "next_logits", "write_model_dir"]
