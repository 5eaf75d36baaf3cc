"""Greedy decoding in float32 with the gap between the first and second candidate at every step."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.builtin_model.training.tool_tasks import Message, ToolDefinition


@dataclass(frozen=True)
class GreedyAnswer:
    """What the model says to one prompt."""

    prompt_ids: list[int]
    token_ids: list[int]
    """The generated tokens, with the end-of-sequence token where the model gave one."""
    text: str
    stopped: bool
    """Whether the model ended by itself."""
    margins: list[float]
    """For every generated token, how far its logit lies above the next best one."""


class GreedyModel:
    """A model directory, loaded on the CPU by transformers."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.eos_token_id: int = self.model.config.eos_token_id

    def prompt_ids(self, messages: list[Message], tools: list[ToolDefinition] | None = None) -> list[int]:
        """The chat prompt as token ids, up to where the assistant begins to speak."""
        text = self.tokenizer.apply_chat_template(
            messages, tools=[*(tools or [])] or None, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def answer(
        self, messages: list[Message], tools: list[ToolDefinition] | None = None, max_new_tokens: int = 300
    ) -> GreedyAnswer:
        """The assistant's next message."""
        return self.generate(self.prompt_ids(messages, tools), max_new_tokens)

    def ask(self, question: str, max_new_tokens: int = 300) -> GreedyAnswer:
        """The answer to a single question."""
        return self.answer([{"role": "user", "content": question}], None, max_new_tokens)

    def complete(self, text: str, max_new_tokens: int = 300) -> GreedyAnswer:
        """The continuation of a plain text."""
        return self.generate(list(self.tokenizer(text).input_ids), max_new_tokens)

    @torch.inference_mode()
    def generate(self, prompt_ids: list[int], max_new_tokens: int) -> GreedyAnswer:
        """The most likely tokens after `prompt_ids`, one by one, until the model ends or the limit is reached."""
        generated: list[int] = []
        margins: list[float] = []
        past, fresh = None, prompt_ids
        while len(generated) < max_new_tokens and (not generated or generated[-1] != self.eos_token_id):
            output = self.model(torch.tensor([fresh]), past_key_values=past, use_cache=True, logits_to_keep=1)
            past = output.past_key_values
            (first, second), (token, _) = (best.tolist() for best in output.logits[0, -1].topk(2))
            generated.append(token)
            margins.append(first - second)
            fresh = [token]
        text = str(self.tokenizer.decode(generated, skip_special_tokens=True))
        stopped = bool(generated) and generated[-1] == self.eos_token_id
        return GreedyAnswer(prompt_ids, generated, text, stopped, margins)
