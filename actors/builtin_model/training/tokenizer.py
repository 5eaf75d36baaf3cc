"""The byte-level BPE tokenizer of the built-in model."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from actors.builtin_model.training.conversations import Conversation
from actors.builtin_model.training.corpus import Story, short_documents

VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 4096
TRAINING_DOCUMENTS = 20_000

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = ["system", "user", "assistant", "tool"]
SPECIAL_TOKENS = [PAD, BOS, EOS, *(f"<|{role}|>" for role in ROLES)]
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
ASSISTANT_ID = SPECIAL_TOKENS.index("<|assistant|>")
ROLE_IDS = range(3, len(SPECIAL_TOKENS))

# Words and digits carry the space before them. Every digit is a token, so that the model sees them one by one.
SPLIT_PATTERN = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learns the vocabulary from the corpus of `seed`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise RuntimeError(f"the corpus gives only {tokenizer.get_vocab_size()} tokens")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=SPECIAL_TOKENS[3:],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
        chat_template=CHAT_TEMPLATE,
    )


def _texts(seed: int) -> Iterator[str]:
    for document in islice(short_documents(seed), TRAINING_DOCUMENTS):
        if isinstance(document, Story):
            yield document.text
        elif isinstance(document, Conversation):
            for message in document.messages:
                yield message["content"] or ""
