"""One request while it is served: its tokens, and how far they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .adapters import Adapter
from .core import FinishReason
from .logprobs import TokenLogprobs
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .grammar.matcher import Matcher

Tokens = NDArray[np.int64]
CacheKey = tuple[tuple[str, ...], bool, str]


class Usage(NamedTuple):
    """Token counts of one request."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, whose keys and values were already there
    output_tokens: int


@dataclass(slots=True, eq=False)
class Request:
    """`max_len` is where prompt and output together end. `parent`: another of the same prompt, which reads it first."""

    id: int
    prompt_ids: Tokens
    params: SamplingParams
    max_len: int
    seed: int
    cache_scope: tuple[str, ...] = ()
    is_long: bool = False  # its positions are those of long sequences
    adapter: Adapter | None = None
    parent: Request | None = None
    last_granular: int | None = None  # position of the token whose scalings later ones use too
    token_ids: list[int] = field(init=False)  # the prompt, then the output
    num_prompt_logprobs: int | None = None  # alternatives told with each token of the prompt
    matcher: Matcher | None = None  # of the grammar that the output keeps to
    # None: not asked for; of the first token None.
    prompt_logprobs: list[TokenLogprobs | None] | None = field(init=False, default=None)
    draft: Sequence[int] = ()  # guesses of what follows, for the next step
    mask: NDArray[np.int32] | None = None  # which tokens a grammar takes next, a bit each
    order: int = -1  # of arrival at the scheduler
    num_computed: int = 0  # leading tokens whose keys and values are in the slot
    num_cached: int = 0  # of the prompt, found at the first admission
    num_preemptions: int = 0
    slot: int | None = None
    finish_reason: FinishReason | None = None
    submitted_at: float = 0.0  # time.perf_counter, as the next four
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float = 0.0
    finished_at: float | None = None
    _history: Tokens = field(init=False, repr=False)  # begins with the first `_num_copied` of `token_ids`
    _num_copied: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.token_ids = self.prompt_ids.tolist()
        if self.num_prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        self._history, self._num_copied = self.prompt_ids, len(self.prompt_ids)

    @property
    def cache_key(self) -> CacheKey:
        """Requests share prefixes only with those of the same key."""
        return self.cache_scope, self.is_long, "" if self.adapter is None else self.adapter.generation

    @property
    def num_shareable(self) -> int:
        """Of the leading tokens, how many have the same keys and values in any request that begins with them."""
        return len(self.token_ids) if self.last_granular is None else self.last_granular

    @property
    def lacks_scores(self) -> bool:
        """Whether tokens of the prompt must be read, even those that are cached."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt

    @property
    def waits_for_parent(self) -> bool:
        """Until the parent has read what both share, or has ended."""
        parent = self.parent
        return parent is not None and parent.finish_reason is None and parent.num_computed < len(self.prompt_ids) - 1

    @property
    def num_prompt(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def history(self) -> Tokens:
        """`token_ids`, which only grow, as an array."""
        num_tokens = len(self.token_ids)
        if num_tokens > len(self._history):
            self._history = np.concatenate([self._history[: self._num_copied], np.empty(num_tokens, np.int64)])
        if num_tokens > self._num_copied:
            self._history[self._num_copied : num_tokens] = self.token_ids[self._num_copied :]
            self._num_copied = num_tokens
        return self._history[:num_tokens]

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt, self.num_cached, self.num_output)

    def append(self, token_id: int) -> None:
        self.token_ids.append(token_id)

    def next_tokens(self, num_tokens: int) -> Sequence[int]:
        return self.token_ids[self.num_computed : self.num_computed + num_tokens]
