"""A runner without a model: its logits are a function of the tokens that were really written to a slot."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mistralrs_onnx.runtime import rows
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler
from mistralrs_onnx.runtime.sampling import SamplingParams

VOCAB = 300
EMPTY, GARBAGE = -1, -7


def logits_of(tokens: Sequence[int] | NDArray[np.int64]) -> Logits:
    seed = zlib.crc32(np.ascontiguousarray(tokens, np.int64).tobytes())
    return 3 * np.random.default_rng(seed).standard_normal(VOCAB, np.float32)


class FakeRunner:
    """Checks every row against what its slot holds. `gate`, when given, lets one step pass per release."""

    def __init__(self, num_slots: int = 20, capacity: int = 4096, gate: threading.Semaphore | None = None) -> None:
        self.num_slots, self.capacity = num_slots, capacity
        self.vocab_size, self.token_bytes, self.rope_switch = VOCAB, 100, None
        self.tgt_non_granular_index: int | None = None
        self.held = np.full((num_slots, capacity + 1), EMPTY, np.int64)
        self.steps: list[list[Row]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.freed: list[tuple[int, int]] = []
        self.failing_steps: set[int] = set()
        self.nan_tokens: set[int] = set()  # a row whose last token is one of them has no logits
        self.gate = gate

    def run(self, rows: Sequence[Row]) -> Logits:
        if self.gate is not None:
            assert self.gate.acquire(timeout=60)
        assert rows
        assert len({row.slot for row in rows}) == len(rows)
        self.steps.append(list(rows))
        if len(self.steps) in self.failing_steps:
            self.held[[row.slot for row in rows]] = GARBAGE
            raise OSError("the device is on fire")
        logits = [each for row in rows for each in self._run_row(row)]
        return np.array(logits, np.float32).reshape(-1, VOCAB)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        assert source != target
        assert (self.held[source, :num_tokens] >= 0).all()
        self.held[target] = EMPTY
        self.held[target, :num_tokens] = self.held[source, :num_tokens]
        self.copies.append((source, target, num_tokens))

    def free(self, slot: int, keep: int = 0) -> None:
        self.held[slot, keep:] = EMPTY
        self.freed.append((slot, keep))

    def _run_row(self, row: Row) -> list[Logits]:
        assert 0 <= row.slot < self.num_slots
        end = row.start + len(row.token_ids)
        assert row.token_ids
        assert end <= self.capacity
        assert (self.held[row.slot, : row.start] >= 0).all(), "the row starts beyond what was written"
        self.held[row.slot, row.start : end] = row.token_ids
        self.held[row.slot, end:] = EMPTY
        self.held[row.slot, end] = GARBAGE  # as attention does
        assert row.num_logits <= len(row.token_ids)
        return [self._logits(row.slot, stop) for stop in range(end - row.num_logits + 1, end + 1)]

    def _logits(self, slot: int, stop: int) -> Logits:
        if self.held[slot, stop - 1] in self.nan_tokens:
            return np.full(VOCAB, np.nan, np.float32)
        return logits_of(self.held[slot, :stop])


def make_request(prompt: Sequence[int], request_id: int = 0, max_len: int = 10**6, **params: object) -> Request:
    sampling = SamplingParams(**params)  # type: ignore[arg-type]
    return Request(request_id, np.array(prompt, np.int64), sampling, max_len, sampling.seed or 0)


def plain_loop(prompt: Sequence[int], num_tokens: int, params: SamplingParams) -> tuple[int, ...]:
    """What the model says to the prompt, one token after the other, with nothing between."""
    request = Request(0, np.array(prompt, np.int64), params, 10**6, params.seed or 0)
    for _ in range(num_tokens):
        request.append(Sampler().sample(logits_of(request.token_ids)[None], [request]).token_ids[0])
    return tuple(request.token_ids[len(prompt) :])


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def passes(request: pytest.FixtureRequest) -> Iterator[None]:
    """What makes passes over rows of logits."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(rows, "library_file", lambda: None)
        elif rows.compiled_rows() is None:
            pytest.skip("nothing was compiled here")
        rows.compiled_rows.cache_clear()
        yield
    rows.compiled_rows.cache_clear()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes 0 to 255 in some order, tokens of several bytes that cut characters, and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)}
    merges = [("Ã", "©"), ("â", "Ĥ"), ("a", "b"), ("ab", "c"), ("Ġ", "a"), ("ð", "Ł"), ("x", "â")]
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|start|>", special=True)])
    while tokenizer.get_vocab_size() < VOCAB:
        tokenizer.add_tokens([f"<word{tokenizer.get_vocab_size()}>"])
    return tokenizer


@pytest.fixture(scope="session")
def fake() -> type[FakeRunner]:
    return FakeRunner


@pytest.fixture(scope="session", name="make_request")
def _make_request() -> Callable[..., Request]:
    return make_request


@pytest.fixture(scope="session", name="logits_of")
def _logits_of() -> Callable[..., Logits]:
    return logits_of


@pytest.fixture(scope="session", name="plain_loop")
def _plain_loop() -> Callable[..., tuple[int, ...]]:
    return plain_loop
