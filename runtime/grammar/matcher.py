"""Where one request is in its grammar: which tokens may come, which must, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.runtime.errors import RequestError

from .trial import DEAD_END

if TYPE_CHECKING:
    from .compiler import Grammar

BITS = 32
Mask = NDArray[np.int32]  # (words,): bit i % 32 of word i // 32 says whether token i may come
Masks = NDArray[np.int32]  # (rows, words)


def num_words(vocab_size: int) -> int:
    return (vocab_size + BITS - 1) // BITS


def allows(mask: Mask, token_id: int) -> bool:
    return bool(int(mask[token_id // BITS]) >> (token_id % BITS) & 1)


class Matcher:
    """One at a time may use it: whoever computes its mask in another thread is waited for before anything else.

    An error is the request's alone: RequestError, code grammar_failed (a limit of llguidance, a dead end) or
    grammar_violation (a token that the mask forbids).
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self.inner = grammar.shared()  # for a batch of masks (masks.py)
        self._has_own_lexer = False
        self._eos_token_ids = frozenset(grammar.eos_token_ids)
        self._token_ids: list[int] = []
        self._num_consumed = 0  # of them by llguidance, which does not count an end where nothing else may come
        self._rows: Masks = np.zeros((1, num_words(grammar.vocab_size)), np.int32)

    @property
    def num_tokens(self) -> int:
        return len(self._token_ids)

    @property
    def has_ended(self) -> bool:
        """An end token was accepted."""
        return bool(self._token_ids) and self._token_ids[-1] in self._eos_token_ids

    @property
    def is_finished(self) -> bool:
        """Nothing but an end token may come: the output is complete, and no mask is needed."""
        return self.inner.is_stopped() and not self.inner.is_error()

    @property
    def can_end(self) -> bool:
        """What is there is a whole output, which may still go on."""
        return self.inner.is_accepting() or self.is_finished

    def mask(self) -> Mask:
        """Which tokens may come next, end tokens among them where the output may end. Valid until the next mask."""
        self.fill(self._rows[0])
        mask: Mask = self._rows[0]
        return mask

    def masks_along(self, draft: Sequence[int]) -> Masks:
        """The mask before each token of `draft` and after the last, up to the first that its mask forbids.

        (1 + acceptable tokens, words), valid until the next mask; the state is as before. After an accepted end token
        there is no further row.
        """
        if len(draft) >= len(self._rows):
            self._rows = np.zeros((len(draft) + 1, self._rows.shape[1]), np.int32)
        num_before, num_rows = self.num_tokens, 0
        try:
            for row, token_id in zip(self._rows, [*draft, None], strict=False):
                self.fill(row)
                num_rows += 1
                if token_id is None or not allows(row, token_id):
                    break
                self.accept([token_id])
                if self.has_ended:
                    break
        finally:
            self.rollback(self.num_tokens - num_before)
        return self._rows[:num_rows]

    def accept(self, token_ids: Sequence[int]) -> None:
        """Goes on by tokens that were generated, end tokens included. Raises RequestError at the first forbidden."""
        for token_id in token_ids:
            if self.is_finished:
                self._accept_end(token_id)
            elif self._consume(token_id):
                self._num_consumed += 1
            else:
                raise self._violation(token_id)
            self._token_ids.append(token_id)

    def forced(self) -> list[int]:
        """Tokens that must come next, in the tokenization that the model would choose; may be none. Changes nothing."""
        return [] if self.is_finished else list(self.inner.compute_ff_tokens())

    def validate(self, token_ids: Sequence[int]) -> int:
        """How many of the leading tokens keep to the grammar.

        Cheaper than masks, but where the grammar forces text it takes any tokens that spell it, masks only the usual.
        """
        if self.is_finished:
            return int(bool(token_ids) and not self.has_ended and token_ids[0] in self._eos_token_ids)
        num_valid = self.inner.validate_tokens(list(token_ids))
        if not self.inner.is_error():
            return num_valid
        self._recover(self.num_tokens)
        return self.inner.validate_tokens(list(token_ids))

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last tokens."""
        kept = self.num_tokens - num_tokens
        assert 0 <= kept <= self.num_tokens, f"{num_tokens} tokens of {self.num_tokens} cannot be taken back"
        surplus = max(0, self._num_consumed - kept)
        if surplus and (self.inner.is_error() or not self.inner.rollback(surplus)):
            self._recover(kept)
        del self._token_ids[kept:]
        self._num_consumed = min(self._num_consumed, kept)

    def fill(self, row: Mask) -> None:
        """Writes the mask to `row`, contiguous."""
        self.inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self.inner.is_error():
            self._recover(self.num_tokens)
            self.inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            self._check()

    def _accept_end(self, token_id: int) -> None:
        if self.has_ended or token_id not in self._eos_token_ids:
            raise self._violation(token_id)

    def _consume(self, token_id: int) -> bool:
        num_consumed = self.inner.try_consume_tokens([token_id])
        if self.inner.is_error():
            self._recover(self.num_tokens)
            num_consumed = self.inner.try_consume_tokens([token_id])
            self._check()
        return num_consumed == 1

    def _recover(self, kept: int) -> None:
        """The first `kept` tokens again, on a lexer that no other matcher has brought to its limits."""
        if self._has_own_lexer or self.inner.get_error().startswith(DEAD_END):
            self._check()
        self._grammar.is_spoilt = self._has_own_lexer = True
        self.inner = self._grammar.fresh()
        self._num_consumed = min(self._num_consumed, kept)
        self.inner.consume_tokens(self._token_ids[: self._num_consumed])
        self._check()

    def _check(self) -> None:
        if not self.inner.is_error():
            return
        reason = self.inner.get_error().splitlines()[0][:200]
        if reason.startswith(DEAD_END):
            reason = "nothing may follow, and it may not end there"
        message = f"the grammar failed after {self.num_tokens} tokens: {reason}"
        raise RequestError(message, code="grammar_failed", param="grammar")

    def _violation(self, token_id: int) -> RequestError:
        message = f"token {token_id} does not keep to the grammar after {self.num_tokens} tokens"
        return RequestError(message, status=500, code="grammar_violation")
