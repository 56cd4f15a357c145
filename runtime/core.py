"""Plain data that the parts of the runtime hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .adapters import Adapter

Logits = NDArray[np.float32]
FinishReason = Literal["stop", "length", "cancelled", "error"]


class Row(NamedTuple):
    """What one slot does in a step: `token_ids` are written at positions `start`, `start + 1`, ...

    Logits come back for the last `num_logits` of them (0 in the middle of a prompt, more than 1 to verify a draft).
    `is_long`: the slot's positions are those of long sequences, in models that have two sets of them. `adapter`: what
    changes the model for this row. `last_granular`: with X-LoRA, the position whose scalings later tokens use too.
    """

    slot: int
    start: int
    token_ids: Sequence[int]
    num_logits: int
    is_long: bool = False
    adapter: Adapter | None = None
    last_granular: int | None = None


class Runner(Protocol):
    """Executes steps over slots of KV cache. Knows tokens and positions, not requests."""

    num_slots: int
    capacity: int  # tokens that a slot can hold
    vocab_size: int
    token_bytes: int  # KV bytes of one token
    tgt_non_granular_index: int | None  # X-LoRA: scalings of later tokens are those of the so-manieth generated one
    rope_switch: int | None  # requests of more tokens are long ones (`Row.is_long`); None: there is no difference

    def run(self, rows: Sequence[Row]) -> Logits:
        """Logits of the rows in their order, (sum of num_logits, vocab); valid until the next call."""

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copies the first tokens of one slot's cache to another slot."""

    def free(self, slot: int, keep: int = 0) -> None:
        """Gives the memory of a slot back, but for its first `keep` tokens."""
