"""How an engine runs, and which prompts it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .core import Runner
from .errors import RequestError
from .request import Tokens
from .scheduler import Limits

RESERVED = 10  # tokens that an answer without max_tokens gets when its prompt is cut


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`max_model_len`: None for all that model and slots can hold. `kv_mem`: bytes; None is no bound here, and half of
    the free memory in `mistralrs_onnx.model.load`. `prefix_cache_n`: the most finished conversations that are kept;
    None is as many as there are free slots. `truncate_sequence`: prompts that are too long lose their beginning.
    Without `kv_cache` each step computes the whole text of its requests anew.
    """

    max_seqs: int = 16
    max_model_len: int | None = None
    prefill_chunk: int = 512
    max_queue: int = 512  # requests that wait beside those that run
    kv_mem: int | None = None
    prefix_cache: bool = True
    prefix_cache_n: int | None = None
    truncate_sequence: bool = False
    kv_cache: bool = True

    @property
    def shares_prompts(self) -> bool:
        """Whether requests use keys and values of others."""
        return self.prefix_cache and self.kv_cache


def limits_of(runner: Runner, context_length: int, options: EngineOptions) -> Limits:
    """Raises ValueError for options that contradict the model or each other."""
    longest = min(context_length, runner.capacity)
    max_model_len = longest if options.max_model_len is None else options.max_model_len
    if max_model_len > context_length:
        raise ValueError(f"max_model_len {max_model_len} exceeds the model's context of {context_length}: lower it")
    if options.max_queue < 0:
        raise ValueError(f"max_queue must be at least 0, got {options.max_queue}")
    if (options.prefix_cache_n or 0) < 0:
        raise ValueError(f"prefix_cache_n must be at least 0, got {options.prefix_cache_n}")
    if options.prefix_cache_n and not options.shares_prompts:
        raise ValueError("prefix_cache_n needs prefix_cache and kv_cache: turn both on, or leave it out")
    return Limits(
        options.max_seqs,
        max_model_len,
        options.prefill_chunk,
        options.kv_mem,
        prefix_cache=options.shares_prompts,
        prefix_cache_n=options.prefix_cache_n,
        kv_cache=options.kv_cache,
    )


def checked_prompt(prompt_ids: Sequence[int], vocab_size: int) -> Tokens:
    """Raises RequestError unless it is a list of tokens of the vocabulary."""
    prompt = np.array(prompt_ids)
    if not len(prompt):
        raise RequestError("the prompt is empty: give at least one token", code="empty_prompt")
    if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
        raise RequestError(f"a prompt is a list of token ids, got {prompt.ndim} dimensions of {prompt.dtype}")
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocab_size:
        raise RequestError(f"token ids must be from 0 to {vocab_size - 1}, got {low if low < 0 else high}")
    return prompt.astype(np.int64)


def fitted(prompt_ids: Tokens, max_tokens: int | None, max_model_len: int) -> Tokens:
    """The prompt, or its end that leaves room for the answer if it is too long; one that nothing helps stays."""
    if len(prompt_ids) + (max_tokens or 1) <= max_model_len:
        return prompt_ids
    room = max_model_len - (min(RESERVED, max_model_len - 1) if max_tokens is None else max_tokens)
    return prompt_ids[-room:] if room > 0 else prompt_ids
