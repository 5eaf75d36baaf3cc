"""Any causal language model of transformers, float32 on the CPU, with its attention over running rows.

Its forward takes the tokens of all sequences of one step packed in one line: nothing is padded but attention, and one
call serves the tokens that decode and the prompts that prefill beside them.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from actors.engines.cpu.attention import ATTENTION_NAME, PROBING_NAME, Options, PackedStep, StepHolder, attention
from actors.engines.cpu.cache import LayerShape, RunningRows, row_tokens
from actors.engines.cpu.reach import reach_limits, shortened
from actors.errors import ModelError, first_line

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
_CHECK_TOKENS, _CHECK_CHUNKS, _CHECK_PEER_TOKENS = 24, (13, 7), 5
_CHECK_REACH_TOKENS = 3
"""What windows are made for the check: so short that three of three, as blocks are counted, are shorter than it too."""
_CHECK_TOLERANCE = 0.01
_FORWARD_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError)


class PackedModel:
    """A loaded model. `vocab_size` is the width of its logits, `context_tokens` what it can be given."""

    def __init__(self, path: Path, context_tokens: int | None = None) -> None:
        """Read the model. It need not serve sequences longer than `context_tokens`.

        :raises ModelError: transformers cannot read it, or its attention cannot be served from rows.
        """
        self._path = path
        config = _read_config(path)
        text_config = config.get_text_config()
        longest = _context_tokens(path, text_config)
        self.context_tokens = min(longest, context_tokens or longest)
        self._layers = int(text_config.num_hidden_layers)
        self._model = _read_weights(path, config)
        self._takes_places = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._holder = StepHolder()
        for module in self._model.modules():
            if hasattr(module, "layer_idx"):
                module.exlpool_holder = self._holder
        self.shapes: list[LayerShape] = []
        self.vocab_size = 0
        self._check_reach()

    @torch.inference_mode()
    def forward(self, token_ids: Tensor, step: PackedStep, wanted: Tensor | None) -> Tensor:
        """Logits (len(wanted), vocab_size), float32, at the places `wanted` of the packed line; None: at all.

        `token_ids` is (step.tokens,). The keys and values of the tokens are written to their rows.
        """
        self._holder.step = step
        kept: dict[str, Any] = {"logits_to_keep": wanted} if wanted is not None and self._takes_places else {}
        try:
            logits: Tensor = self._model(
                input_ids=token_ids[None], position_ids=step.positions[None], use_cache=False, **kept
            ).logits[0]
        finally:
            self._holder.step = None
        return logits if wanted is None or self._takes_places else logits[wanted]

    def _check_reach(self) -> None:
        """Check the model with sequences longer than what it sees at once, however much that is.

        Its limits are made short for the check, so that it costs what the check of any other model costs.
        """
        limits = reach_limits(self._model, _CHECK_REACH_TOKENS, self.context_tokens)
        shortest = min((limit.tokens for limit in limits), default=0)
        try:
            with shortened(limits, _CHECK_REACH_TOKENS):
                self._check()
        except ModelError:
            if not limits:
                raise
            self._check()  # is it unsuitable in any case, then this is what to say
            raise self._unsuitable(
                f"beyond {shortest} tokens its attention cannot be served", f"Set context_tokens to {shortest}"
            ) from None
        if limits:
            self._probe()
        kept = [None if tokens is None or tokens >= self.context_tokens else tokens for tokens in self._kept_tokens()]
        for layer, tokens in enumerate(kept):
            if tokens is not None and tokens != self._holder.windows[layer]:
                raise self._unsuitable(
                    f"it keeps {tokens} tokens in its cache and its attention sees more",
                    f"Set context_tokens to {tokens}",
                )

    def _kept_tokens(self) -> list[int | None]:
        """How many tokens transformers' own cache keeps of each layer; None: all."""
        layers: list[Any] = DynamicCache(config=self._model.config).layers
        return [getattr(layer, "sliding_window", None) for layer in layers]

    def _use_attention(self, name: str) -> None:
        transformers.logging.get_logger("transformers.modeling_utils").setLevel(logging.ERROR)
        self._model.set_attn_implementation(name)

    def _check(self) -> None:
        try:
            reference = self._reference()
        except _FORWARD_ERRORS as error:
            raise self._unsuitable(f"its forward fails ({first_line(error)})") from error
        self.vocab_size = int(reference.shape[-1])
        self._probe()
        self._check_against(reference)

    @torch.inference_mode()
    def _reference(self) -> Tensor:
        """What transformers itself computes for the self-check: logits (_CHECK_TOKENS, vocab_size)."""
        self._use_attention("eager")
        logits: Tensor = self._model(input_ids=_check_ids(self._model)[None], use_cache=False).logits[0]
        return logits

    @torch.inference_mode()
    def _probe(self) -> None:
        """Find out the layers' shapes and windows, from what reaches their attention."""
        probe = _Probe()
        self._holder.step = probe
        self._use_attention(PROBING_NAME)
        tokens = torch.arange(2)
        try:
            self._model(input_ids=_check_ids(self._model)[None, :2], position_ids=tokens[None], use_cache=False)
        except _FORWARD_ERRORS as error:
            raise self._unsuitable(f"its forward fails ({first_line(error)})") from error
        finally:
            self._holder.step = None
            self._use_attention(ATTENTION_NAME)
        if sorted(probe.calls) != list(range(self._layers)):
            raise self._unsuitable("not every layer is one attention over keys and values")
        shapes = dict(zip(probe.calls, probe.shapes, strict=True))
        self.shapes = [shapes[layer] for layer in range(self._layers)]

    @torch.inference_mode()
    def _check_against(self, reference: Tensor) -> None:
        """The same tokens in chunks, then one by one, beside another sequence, must give the same logits."""
        # All that can go wrong between transformers' models and our attention shows in one of these: a chunk behind
        # another (positions), beside another prompt (packing), and single tokens beside another row (blocks, masks).
        ids, rows = _check_ids(self._model), RunningRows(self.shapes, 2, 2 * row_tokens(_CHECK_TOKENS))
        row, peer = (rows.open(_CHECK_TOKENS - 1, _CHECK_TOKENS) for _ in range(2))
        found = []
        for chunk in _CHECK_CHUNKS:
            step = PackedStep([], [(row, chunk), (peer, _CHECK_PEER_TOKENS)])
            tokens = torch.cat([ids[row.length : row.length + chunk], ids[:_CHECK_PEER_TOKENS]])
            found.append(self.forward(tokens, step, None)[:chunk])
            row.length += chunk
            peer.length += _CHECK_PEER_TOKENS
        rows.start_decoding(row)
        rows.start_decoding(peer)
        for place in range(row.length, _CHECK_TOKENS):
            (block,) = rows.decoding()
            step = PackedStep([block], [])
            found.append(self.forward(torch.stack([ids[place], ids[0]]), step, torch.tensor([0])))
            row.length += 1
            peer.length += 1
        # The median: in a mixture of experts a rounding error may send single tokens to another expert.
        difference = (torch.cat(found) - reference).abs().amax(-1).median()
        if not difference <= _CHECK_TOLERANCE * max(float(reference.std()), 1e-3):
            raise self._unsuitable(f"its logits come out wrong (by {float(difference):.3g})")

    def _unsuitable(self, reason: str, advice: str = "Use a plain decoder model") -> ModelError:
        name = type(self._model).__name__
        return ModelError(f"The CPU engine cannot run {name} in {self._path}: {reason}. {advice}.")


class _Probe:
    """Attention of one sequence by itself, which notes the shapes that it sees."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.shapes: list[LayerShape] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self.calls.append(layer)
        self.shapes.append(LayerShape(key.shape[1], key.shape[3], value.shape[3]))
        return attention(query, key, value, None, options).transpose(1, 2)


def _check_ids(model: Any) -> Tensor:
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    return torch.arange(1, _CHECK_TOKENS + 1) * 7919 % vocab_size


def _read_config(path: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"transformers cannot read {path / 'config.json'}: {first_line(error)}") from error


def _read_weights(path: Path, config: Any) -> Any:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{path} holds an encoder-decoder model: the CPU engine runs decoder models only.")
    library_logging: Any = transformers.logging
    library_logging.disable_progress_bar()
    loader: Any = AutoModelForCausalLM
    try:
        model, found = loader.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"transformers cannot load {path}: {first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{path} lacks {len(missing)} of its weights ({missing[0]}): fetch the model again.")
    return model.eval().requires_grad_(False)


def _context_tokens(path: Path, config: Any) -> int:
    """How long a sequence may be.

    :raises ModelError: the model has layers that keep something else than keys and values.
    """
    kinds = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if kinds:
        raise ModelError(f"{path} has layers of kind {min(kinds)}, which the CPU engine cannot run.")
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not limit:
        raise ModelError(f"{path / 'config.json'} does not say how many positions the model has.")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type") or rope.get("type")
    if kind in _LENGTH_DEPENDENT_ROPE:
        # Beyond this length the whole batch would be rotated otherwise, so a text would depend on its company.
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        limit = min(limit, original or limit)
    return int(limit)
