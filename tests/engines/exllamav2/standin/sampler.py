"""The compiled extension's `sample_basic` (exllamav2_ext/ext_sampling.cpp and cpp/sampling.cpp, 0.3.2), step by step
in float32: same order of samplers, same order of candidates, same bounds."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Ids = NDArray[np.int64]
HEAP_LIMIT = 500


def sample_basic(
    logits: torch.Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    top_a: float,
    min_p: float,
    tfs: float,
    typical: float,
    random: float,
    output_tokens: torch.Tensor,
    output_probs: torch.Tensor,
    output_kprobs: torch.Tensor,
    output_ktokens: torch.Tensor,
    logit_filter: torch.Tensor,
    mirostat: bool,
    mirostat_mu: list[float],
    mirostat_tau: float,
    mirostat_eta: float,
    post_temperature: float,
    xtc_mask: torch.Tensor,
    xtc_probability: float,
    xtc_threshold: float,
    min_temp: float,
    max_temp: float,
    temp_exponent: float,
    smoothing_factor: float,
    skew: float,
) -> list[float]:
    assert logits.shape[0] == 1, "the engine samples one row at a time"
    if temperature < 0.01:
        temperature, top_k = 1.0, 1
    row = logits[0, 0].numpy().astype(np.float32)
    allowed = None if logit_filter.is_meta else logit_filter[0].numpy()
    array, ids, best = _softmax(row, temperature, smoothing_factor, allowed)
    count = len(array)
    if 0 < top_k < count:
        count = _normalised(array, _top_k(array, ids, top_k, best))
    if count > 1 and 0.0 < top_p < 1.0:
        count = _normalised(array, _top_p(array, ids, count, top_p))
    if count > 1 and top_a > 0.0:
        count = _normalised(array, _keep_threshold(array, ids, count, top_a * float(array[:count].max()) ** 2))
    if count > 1 and 0.0 < min_p < 1.0:
        count = _normalised(array, _keep_threshold(array, ids, count, min_p * float(array[:count].max())))
    if count > 1 and 0.0 < tfs < 1.0:
        count = _normalised(array, _tail_free(array, ids, count, tfs))
    if count > 1 and 0.0 < typical < 1.0:
        count = _normalised(array, _typical(array, ids, count, typical))
    if count > 1 and mirostat:
        count = _normalised(array, _mirostat(array, ids, count, mirostat_mu[0] or 2.0 * mirostat_tau))
    if count > 1 and (post_temperature != 1.0 or max_temp > min_temp):
        _post_temperature(array, count, post_temperature, min_temp, max_temp, temp_exponent)
    if xtc_probability > 0.0:
        _xtc(array, ids, count, xtc_mask.numpy(), xtc_probability, xtc_threshold)
    if skew != 0.0:
        count = _sort_descending(array, ids, count)
        random = random ** math.exp(-skew)
    place = _multinomial(array, count, random * 0.9998)
    output_tokens[0, 0], output_probs[0, 0] = int(ids[place]), float(array[place])
    if not mirostat:
        return []
    surprise = -math.log2(max(float(array[place]), 1e-30))
    return [(mirostat_mu[0] or 2.0 * mirostat_tau) + mirostat_eta * (mirostat_tau - surprise)]


def _softmax(row: Probabilities, temperature: float, smoothing: float, allowed: Any) -> tuple[Probabilities, Ids, int]:
    masked = row if allowed is None else np.where(allowed, row, np.float32(-1e38))
    best = int(masked.argmax())
    difference = masked - masked[best]
    scaled = -(difference**2) * smoothing if smoothing > 0.0 else difference
    weights = np.exp(np.maximum(scaled / np.float32(temperature), -1e4)).astype(np.float32)
    return weights * np.float32(1.0 / weights.sum()), np.arange(len(row)), best


def _normalised(array: Probabilities, count: int) -> int:
    array[:count] *= np.float32(1.0) / array[:count].sum(dtype=np.float32)
    return count


def _top_k(array: Probabilities, ids: Ids, top_k: int, best: int) -> int:
    if top_k == 1:
        array[[0, best]], ids[[0, best]] = array[[best, 0]], ids[[best, 0]]
        return 1
    if top_k > HEAP_LIMIT:
        _sort_descending(array, ids, len(array))
        return top_k
    heap = [(float(p), int(i)) for p, i in zip(array[:top_k], ids[:top_k], strict=True)]
    heapq.heapify(heap)
    for probability, token_id in zip(array[top_k:].tolist(), ids[top_k:].tolist(), strict=True):
        if probability > heap[0][0]:
            heapq.heapreplace(heap, (probability, token_id))
    return _write_heap(array, ids, heap)


def _top_p(array: Probabilities, ids: Ids, count: int, top_p: float) -> int:
    heap: list[tuple[float, int]] = []
    total, limit = np.float32(0.0), np.float32(top_p)
    for probability, token_id in zip(array[:count].copy(), ids[:count].tolist(), strict=True):
        if probability < 1e-6 or (total > limit and probability < heap[0][0]):
            continue
        heapq.heappush(heap, (float(probability), token_id))
        total += probability
        while total > limit and len(heap) > 1:
            total -= np.float32(heapq.heappop(heap)[0])
    return _write_heap(array, ids, heap)


def _write_heap(array: Probabilities, ids: Ids, heap: list[tuple[float, int]]) -> int:
    for place, (probability, token_id) in enumerate(sorted(heap, reverse=True)):
        array[place], ids[place] = probability, token_id
    return len(heap)


def _keep_threshold(array: Probabilities, ids: Ids, count: int, threshold: float) -> int:
    """With the original's habit of going one too far when all of what it looks at is kept."""
    i, j = 0, count - 1
    while j >= i:
        while i < len(array) and array[i] >= threshold and j >= i:
            i += 1
        if array[j] >= threshold:
            if i < len(array):
                array[[i, j]], ids[[i, j]] = array[[j, i]], ids[[j, i]]
            i += 1
        j -= 1
    return min(i, len(array))


def _sort_descending(array: Probabilities, ids: Ids, count: int) -> int:
    order = np.argsort(-array[:count], kind="stable")
    array[:count], ids[:count] = array[:count][order], ids[:count][order]
    return max(int((array[:count] >= 1e-8).sum()), 1)


def _tail_free(array: Probabilities, ids: Ids, count: int, tfs: float) -> int:
    if count < 3:
        return count
    kept = _sort_descending(array, ids, count)
    curvature = np.abs(-array[: kept - 2] + 2 * array[1 : kept - 1] - array[2:kept])
    return int((np.cumsum(curvature / max(float(curvature.sum()), 1e-30)) <= tfs).sum()) + 1


def _typical(array: Probabilities, ids: Ids, count: int, typical: float) -> int:
    logs = array[:count] + np.log(array[:count] + 1e-10)
    order = np.argsort(np.abs(logs - (array[:count] * logs).sum()), kind="stable")
    array[:count], ids[:count] = array[:count][order], ids[:count][order]
    return max(int((np.cumsum(array[:count]) < typical).sum()), 1)


def _mirostat(array: Probabilities, ids: Ids, count: int, mu: float) -> int:
    kept = _sort_descending(array, ids, count)
    return 1 + int((array[1:kept] >= 2.0**-mu).sum())


def _post_temperature(
    array: Probabilities, count: int, temperature: float, low: float, high: float, exponent: float
) -> None:
    if high > low:
        positive = array[:count][array[:count] > 0]
        entropy = -float((positive * np.log(positive)).sum()) / (math.log(count) or 1.0)
        temperature = low + (high - low) * entropy**exponent
    powered = array[:count] ** np.float32(1.0 / temperature)
    array[:count] = powered / powered.sum()


def _xtc(array: Probabilities, ids: Ids, count: int, mask: Any, probability: float, threshold: float) -> None:
    over = [place for place in range(count) if array[place] >= threshold and mask[ids[place]]]
    if len(over) <= 1:
        return
    mass = float(array[over].sum()) - float(array[over].min())
    for place in range(count):
        following = array[place + 1] if place + 1 < len(array) else 0.0
        if following >= threshold and mask[ids[place]]:
            array[place] *= 1.0 - probability
        else:
            array[place] *= 1.0 + probability * mass / (1.0 - mass)


def _multinomial(array: Probabilities, count: int, random: float) -> int:
    total = np.float32(0.0)
    for place in range(count):
        total += array[place]
        if total >= np.float32(random):
            return place
    place = count - 1
    while place > 0 and array[place] == 0.0:
        place -= 1
    return place
