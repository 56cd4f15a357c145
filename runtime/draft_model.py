"""A smaller model of the same vocabulary that guesses what a larger one will say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from .core import Row, Runner
from .request import Request

CHUNK = 512  # tokens of prompts that it reads in a step
FEW = 32  # tokens that it reads and guesses on at once
RENEWAL = 0.05  # of what a guess costs, with each
TIMED = 6  # tokens that are read to find out what a guess costs


@dataclass(slots=True)
class _Seat:
    """A slot of the draft model, and the tokens whose keys and values it holds."""

    slot: int
    held: list[int] = field(default_factory=list)
    num_sure: int = 0  # of them that are no guesses

    def keep_common(self, tokens: Sequence[int]) -> None:
        """Guesses that fell are forgotten."""
        common, length = self.num_sure, min(len(self.held), len(tokens))
        while common < length and self.held[common] == tokens[common]:
            common += 1
        del self.held[common:]
        self.num_sure = common


class DraftModel:
    """Guesses the likeliest token each time. Requests beyond its slots or its context get no guesses.

    `vocab_size`: of the model; tables may have more rows than there are tokens, and more in one than in the other.
    """

    def __init__(self, runner: Runner, vocab_size: int) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._seats: dict[int, _Seat] = {}
        self._free = list(range(runner.num_slots))[::-1]
        self.seconds_per_token = self._timed()

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        guesses: list[list[int]] = [[] for _ in requests]
        wanted = [i for i, length in enumerate(lengths) if length and self._fits(requests[i], length)]
        ready = self._read(requests, wanted)
        while ready:
            rows = [self._row(requests[i], guesses[i]) for i in ready]
            best = self._best(rows)
            for i, row, token in zip(ready, rows, best, strict=True):
                self._seats[requests[i].id].held += row.token_ids
                guesses[i].append(token)
            ready = [i for i in ready if len(guesses[i]) < lengths[i]]
        return guesses

    def forget(self, request: Request) -> None:
        seat = self._seats.pop(request.id, None)
        if seat is not None:
            self._runner.free(seat.slot)
            self._free.append(seat.slot)

    def _best(self, rows: Sequence[Row]) -> list[int]:
        """The likeliest token behind each row. What rows cost that catch up on many tokens is not a guess's."""
        begun = perf_counter()
        best: list[int] = self._runner.run(rows)[:, : self._vocab_size].argmax(-1).tolist()
        if sum(len(row.token_ids) for row in rows) <= 2 * len(rows):
            seconds = (perf_counter() - begun) / len(rows)
            self.seconds_per_token += (seconds - self.seconds_per_token) * RENEWAL
        return best

    def _timed(self) -> float:
        """Seconds of a guess, for one request."""
        seconds = []
        for start in range(min(TIMED, self._runner.capacity)):
            begun = perf_counter()
            self._runner.run([Row(0, start, [0], 1)])
            seconds.append(perf_counter() - begun)
        self._runner.free(0)
        return min(seconds)

    def _fits(self, request: Request, length: int) -> bool:
        if len(request.token_ids) + length > self._runner.capacity:
            return False
        if request.id not in self._seats and self._free:
            self._seats[request.id] = _Seat(self._free.pop())
        seat = self._seats.get(request.id)
        return seat is not None and max(request.token_ids[seat.num_sure :]) < self._runner.vocab_size

    def _read(self, requests: Sequence[Request], wanted: Sequence[int]) -> list[int]:
        """Those that have been read up to a few tokens; of the others a chunk is read."""
        ready, budget, rows = [], CHUNK, []
        for i in wanted:
            tokens, seat = requests[i].token_ids, self._seats[requests[i].id]
            seat.keep_common(tokens[:-1])
            missing = len(tokens) - len(seat.held)
            if missing <= FEW:
                ready.append(i)
            elif budget:
                chunk = tokens[len(seat.held) : len(seat.held) + min(budget, missing - 1)]
                rows.append(Row(seat.slot, len(seat.held), chunk, 0))
                seat.held += chunk
                budget -= len(chunk)
        if rows:
            self._runner.run(rows)
        return ready

    def _row(self, request: Request, guesses: Sequence[int]) -> Row:
        seat = self._seats[request.id]
        tokens = [*request.token_ids, *guesses]
        return Row(seat.slot, len(seat.held), tokens[len(seat.held) :], 1)
