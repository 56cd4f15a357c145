"""Prompts that are too long lose their beginning where a request, or the server, says so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mistralrs_onnx.runtime.engine_options import fitted
from mistralrs_onnx.runtime.errors import RequestError

from .model import Model
from .schemas import Completion


def kept(token_ids: Sequence[int], max_tokens: int | None, body: Completion, model: Model) -> list[int]:
    """What is read of a prompt. Raises RequestError for more tokens than the context holds."""
    last, longest = body.truncate_prompt_tokens, model.context_length
    if last is not None and last > longest:
        message = f"truncate_prompt_tokens must be at most the context of {longest} tokens, got {last}"
        raise RequestError(message, param="truncate_prompt_tokens")
    if last is not None and last > 0:
        token_ids = token_ids[-last:]
    fits = model.truncate_sequence if body.truncate_sequence is None else body.truncate_sequence
    if fits or last == -1:
        token_ids = fitted(np.array(token_ids, np.int64), max_tokens, longest).tolist()
    return list(token_ids)
