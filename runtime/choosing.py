"""From the logits of a step to the next tokens of its requests: grammars' masks, guesses, and scores of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .core import Logits
from .errors import RequestError
from .grammar.masks import MaskJob, MaskWorker
from .grammar.matcher import Masks
from .logprobs import TokenLogprobs, prompt_logprobs
from .request import Request
from .sampler import EXHAUSTED, Sampled, Sampler
from .scheduler import Scheduled, Scheduler
from .speculation import Speculation

MOST_FORCED = 32  # tokens that a grammar leaves no choice of, in a step


class Owners(NamedTuple):
    """Called with what came: a token (or a code of the sampler), the end of what a grammar allows, an error."""

    tell: Callable[[Request, int, TokenLogprobs | None], None]
    complete: Callable[[Request], None]
    fail: Callable[[Request, RequestError], None]


@dataclass(slots=True)
class _Item:
    """A request that draws: its first row of logits that counts, and how many of its guesses stood."""

    request: Request
    draft: Sequence[int]
    row: int
    masks: Masks | None = None
    num_stood: int = 0

    @property
    def is_right(self) -> bool:
        """Whether the next guess is what was drawn, by a request that goes on."""
        request = self.request
        if request.finish_reason is not None or self.num_stood == len(self.draft):
            return False
        return request.token_ids[-1] == self.draft[self.num_stood]


class Choosing:
    """One for an engine, on its thread. A request draws one token in a step, and one more for each guess that stood."""

    def __init__(
        self,
        sampler: Sampler,
        scheduler: Scheduler,
        owners: Owners,
        speculation: Speculation | None = None,
        mask_worker: MaskWorker | None = None,
    ) -> None:
        self._sampler = sampler
        self._scheduler = scheduler
        self._owners = owners
        self._speculation = speculation
        self._mask_worker = mask_worker
        self._asked: list[Request] = []  # whose masks are being computed

    def guess(self) -> None:
        """Leaves guesses with the requests that decode next: what their grammars force, or what a drafter says."""
        decoding = [request for request in self._scheduler.running if request.num_uncomputed == 1]
        for request in decoding:
            request.draft = () if request.matcher is None else request.matcher.forced()[: _room(request)]
        if self._speculation is None:
            return
        free = [request for request in decoding if not request.draft]
        self._speculation.draft(free)
        for request in free:
            if request.matcher is not None and request.draft:
                request.draft = request.draft[: request.matcher.validate(request.draft)]

    def begin(self, scheduled: Sequence[Scheduled]) -> None:
        """Before the graph runs: masks are computed meanwhile."""
        jobs = {
            item.request: MaskJob(item.request.matcher, item.draft)
            for item in scheduled
            if item.is_drawn and item.request.matcher is not None
        }
        self._asked = list(jobs)
        if jobs:
            assert self._mask_worker is not None
            self._mask_worker.begin(list(jobs.values()))

    def finish(self, scheduled: Sequence[Scheduled], logits: Logits | None) -> None:
        """`logits`: of the rows that ran, in their order; None when the step failed."""
        masks = self._masks()
        if logits is None:
            return
        items = list(self._items(scheduled, logits))
        for item in items:
            found = masks.get(item.request.id)
            if isinstance(found, RequestError):
                self._owners.fail(item.request, found)
            elif found is not None:
                item.masks = found
        going = [item for item in scheduled if item.request.finish_reason is None]
        items = [item for item in items if item.request.finish_reason is None]
        drawn = self._sample(items, logits)
        self._scheduler.commit(going, drawn.token_ids)
        self._tell(items, drawn)
        self._verify(items, logits)

    def _masks(self) -> dict[int, Masks | RequestError]:
        if not self._asked:
            return {}
        assert self._mask_worker is not None
        asked, self._asked = self._asked, []
        return {request.id: mask for request, mask in zip(asked, self._mask_worker.wait(), strict=True)}

    def _items(self, scheduled: Sequence[Scheduled], logits: Logits) -> Iterator[_Item]:
        end = 0
        for item in scheduled:
            start, end = end, end + item.num_logits
            if item.scores_prompt:
                _score(item, logits[start:end])
            if item.is_drawn:
                yield _Item(item.request, item.draft, end - 1 - len(item.draft))

    def _sample(self, items: Sequence[_Item], logits: Logits) -> Sampled:
        requests = [item.request for item in items]
        for item in items:
            item.request.mask = None if item.masks is None else item.masks[item.num_stood]
        numbers = [item.row + item.num_stood for item in items]
        rows = logits if numbers == list(range(len(logits))) else logits[numbers]
        return self._sampler.sample(rows, requests)

    def _tell(self, items: Sequence[_Item], drawn: Sampled) -> None:
        for item, token_id, logprobs in zip(items, *drawn, strict=True):
            request, matcher = item.request, item.request.matcher
            if token_id == EXHAUSTED and matcher is not None and matcher.can_end:
                self._owners.complete(request)  # the output is whole: that it is short, or cannot go on, is no error
                continue
            try:
                if matcher is not None and token_id >= 0:
                    matcher.accept([token_id])
            except RequestError as error:
                self._owners.fail(request, error)
                continue
            self._owners.tell(request, token_id, logprobs)
            if matcher is not None and request.finish_reason is None and (matcher.is_finished or matcher.has_ended):
                self._owners.complete(request)  # ends are not to be ignored here

    def _verify(self, items: Sequence[_Item], logits: Logits) -> None:
        """Draws on behind guesses, as long as they are what is drawn."""
        going = [item for item in items if item.draft]
        while going := [item for item in going if item.is_right]:
            for item in going:
                item.num_stood += 1
            drawn = self._sample(going, logits)
            for item, token_id in zip(going, drawn.token_ids, strict=True):
                self._scheduler.accept(item.request, token_id)
            self._tell(going, drawn)
        if self._speculation is not None:
            for item in items:
                if item.draft:
                    self._speculation.note(item.request, len(item.draft), item.num_stood)


def _room(request: Request) -> int:
    return max(0, min(MOST_FORCED, request.max_len - len(request.token_ids) - 1))


def _score(item: Scheduled, logits: Logits) -> None:
    """What the model said before it read the tokens of the prompt that follow those of the row."""
    request = item.request
    assert request.prompt_logprobs is not None
    known = len(request.prompt_logprobs)
    first = request.num_computed + 1  # the token that the first row is about
    tokens = request.prompt_ids[first : first + item.num_tokens]
    skipped = min(max(0, known - first), len(tokens))  # read again after preemption
    found = prompt_logprobs(logits[skipped : len(tokens)], tokens[skipped:].tolist(), request.num_prompt_logprobs or 0)
    request.prompt_logprobs += found
