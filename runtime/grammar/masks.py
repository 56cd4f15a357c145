"""Masks of a batch, computed in threads beside whatever the caller does meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par

from mistralrs_onnx.runtime.errors import RequestError

from .matcher import Masks, Matcher, num_words


class MaskJob(NamedTuple):
    """Asks for the mask after what `matcher` accepted, and after each token of `draft`."""

    matcher: Matcher
    draft: Sequence[int] = ()


class MaskWorker:
    """Computes masks between `begin` and `wait`, when nobody may touch the matchers. For one caller at a time.

    llguidance holds no lock of Python meanwhile. `num_threads` beside the caller's; matchers of one grammar take
    turns, as they share a lexer.
    """

    def __init__(self, vocab_size: int, num_threads: int = 1) -> None:
        self._threads = LLExecutor(num_threads)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._batch: Masks = np.zeros((0, num_words(vocab_size)), np.int32)
        self._result: Future[list[Masks | RequestError]] | None = None

    def begin(self, jobs: Sequence[MaskJob]) -> None:
        assert self._result is None, "wait for the masks that were begun"
        self._result = self._worker.submit(self.compute, jobs)

    def wait(self) -> list[Masks | RequestError]:
        """As `compute` would give them."""
        assert self._result is not None, "begin comes first"
        result, self._result = self._result, None
        return result.result()

    def compute(self, jobs: Sequence[MaskJob]) -> list[Masks | RequestError]:
        """Per job (1 + acceptable tokens of the draft, words), or why its request fails. Valid until the next."""
        plain = [i for i, job in enumerate(jobs) if not job.draft]
        if len(plain) > len(self._batch):
            self._batch = np.zeros((len(plain), self._batch.shape[1]), np.int32)
        if plain:
            targets = [(jobs[i].matcher.inner, row) for row, i in enumerate(plain)]
            fill_next_token_bitmask_par(self._threads, targets, self._batch)
        rows = {i: self._batch[row : row + 1] for row, i in enumerate(plain)}
        return [_finished(job, rows.get(i)) for i, job in enumerate(jobs)]

    def close(self) -> None:
        self._worker.shutdown()


def masks(matchers: Sequence[Matcher], worker: MaskWorker) -> list[Masks | RequestError]:
    """The next mask of each, (1, words), or why its request fails."""
    return worker.compute([MaskJob(matcher) for matcher in matchers])


def _finished(job: MaskJob, row: Masks | None) -> Masks | RequestError:
    try:
        if row is None:
            return job.matcher.masks_along(job.draft)
        if job.matcher.inner.is_error():
            job.matcher.fill(row[0])
    except RequestError as error:
        return error
    return row
