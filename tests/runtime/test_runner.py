"""Steps on the real model: logits are the same bits however the work is cut and whatever runs beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.probe import check_logits, is_invariant
from mistralrs_onnx.runtime.runner import OrtRunner

PROMPT = np.random.default_rng(0).integers(5, 40000, 600).tolist()


@pytest.fixture
def runner(smollm2_runner) -> Iterator[OrtRunner]:
    return smollm2_runner(num_slots=20)


def prefill(runner: OrtRunner, slot: int, ids: list[int], chunks: list[int]) -> Logits:
    """Logits after the last of `chunks` (numbers of tokens)."""
    start = 0
    for size in chunks:
        logits = runner.run([Row(slot, start, ids[start : start + size], 1)])
        start += size
    assert start == len(ids)
    return logits[0].copy()


def cut(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


@pytest.mark.parametrize("size", [7, 128, 129, 257, 512])
def test_a_prompt_in_chunks_equals_the_whole(runner: OrtRunner, size: int) -> None:
    whole = prefill(runner, 0, PROMPT[:515], [515])
    np.testing.assert_array_equal(prefill(runner, 1, PROMPT[:515], cut(515, size)), whole)


def test_tokens_one_and_two_at_a_time_equal_the_whole(runner: OrtRunner) -> None:
    whole = prefill(runner, 0, PROMPT[:129], [129])
    for size in (1, 2):
        np.testing.assert_array_equal(prefill(runner, size, PROMPT[:129], cut(129, size)), whole)


def check_random_chunkings(runner: OrtRunner, length: int, count: int) -> None:
    rng = np.random.default_rng(1)
    whole = prefill(runner, 0, PROMPT[:length], [length])
    for _ in range(count):
        cuts = np.sort(rng.choice(np.arange(1, length), rng.integers(1, 12), replace=False))
        chunks = np.diff([0, *cuts, length]).tolist()
        np.testing.assert_array_equal(prefill(runner, 1, PROMPT[:length], chunks), whole)


def test_random_chunkings_equal_the_whole(runner: OrtRunner) -> None:
    check_random_chunkings(runner, 257, 6)


@pytest.mark.full
def test_two_hundred_random_chunkings_equal_the_whole(runner: OrtRunner) -> None:
    check_random_chunkings(runner, 515, 200)


@pytest.mark.full
@pytest.mark.parametrize("size", [1, 2])
def test_a_long_prompt_token_by_token_equals_the_whole(runner: OrtRunner, size: int) -> None:
    whole = prefill(runner, 0, PROMPT[:515], [515])
    np.testing.assert_array_equal(prefill(runner, 1, PROMPT[:515], cut(515, size)), whole)


def test_staggered_requests_of_unequal_lengths_equal_each_alone(runner: OrtRunner) -> None:
    """Sixteen requests enter one a step while the earlier ones decode; prompts of 129 and 257 are among them."""
    lengths = [129, 257, *range(3, 17)]
    prompts = [PROMPT[i : i + length] for i, length in enumerate(lengths)]
    together: dict[int, list[Logits]] = {i: [] for i in range(16)}
    held = [0] * 16
    for step in range(20):
        rows = []
        for i in range(min(step + 1, 16)):
            ids = prompts[i] if held[i] == 0 else [PROMPT[held[i]]]
            rows.append(Row(i, held[i], ids, 1))
            held[i] += len(ids)
        for row, logits in zip(rows, runner.run(rows), strict=True):
            together[row.slot].append(logits.copy())
    for i, prompt in enumerate(prompts):
        steps = [Row(19, 0, prompt, 1)]
        steps += [Row(19, position, [PROMPT[position]], 1) for position in range(len(prompt), held[i])]
        alone = [runner.run([row])[0].copy() for row in steps]
        np.testing.assert_array_equal(together[i], alone)


@pytest.mark.parametrize("rows", range(2, 10))
def test_verifying_several_tokens_equals_decoding_them(runner: OrtRunner, rows: int) -> None:
    prefill(runner, 0, PROMPT[:50], [50])
    prefill(runner, 1, PROMPT[:50], [50])
    draft = PROMPT[50 : 50 + rows]
    verified = runner.run([Row(0, 50, draft, rows)]).copy()
    decoded = [runner.run([Row(1, 50 + i, [token], 1)])[0].copy() for i, token in enumerate(draft)]
    np.testing.assert_array_equal(verified, decoded)


def test_copied_rows_continue_like_the_original(runner: OrtRunner) -> None:
    prefill(runner, 0, PROMPT[:100], [100])
    runner.copy(0, 7, 60)
    continued = runner.run([Row(7, 60, PROMPT[60:100], 1)])[0].copy()
    np.testing.assert_array_equal(continued, prefill(runner, 8, PROMPT[:100], [100]))


def test_a_freed_slot_starts_anew(runner: OrtRunner) -> None:
    first = prefill(runner, 3, PROMPT[:40], [40])
    runner.free(3)
    np.testing.assert_array_equal(prefill(runner, 3, PROMPT[:40], [40]), first)


def test_a_step_without_wanted_logits(runner: OrtRunner) -> None:
    assert runner.run([Row(0, 0, PROMPT[:9], 0)]).shape == (0, runner.vocab_size)
    whole = prefill(runner, 1, PROMPT[:12], [12])
    np.testing.assert_array_equal(runner.run([Row(0, 9, PROMPT[9:12], 1)])[0], whole)


def test_logits_come_in_the_order_of_rows(runner: OrtRunner) -> None:
    alone = [prefill(runner, slot, PROMPT[slot : slot + 5], [5]) for slot in range(3)]
    rows = [Row(slot, 0, PROMPT[slot : slot + 5], 1) for slot in (2, 0, 1)]
    np.testing.assert_array_equal(runner.run(rows), [alone[2], alone[0], alone[1]])


def test_fast_decoding_is_the_same_in_every_batch(smollm2_runner) -> None:
    runner = smollm2_runner(num_slots=4, determinism="fast")
    for slot in range(3):
        prefill(runner, slot, PROMPT[:33], [33])
    alone = runner.run([Row(0, 33, [5], 1)])[0].copy()
    beside = runner.run([Row(3, 0, PROMPT[:20], 1), Row(1, 33, [5], 1), Row(2, 33, [6], 1)])
    np.testing.assert_array_equal(beside[1], alone)
    np.testing.assert_array_equal(beside[0], prefill(runner, 0, PROMPT[:20], [20]))


def test_float16_keys_and_values(smollm2_runner) -> None:
    """Half precision of keys and values changes logits by about their eleven bits, and keeps invariance."""
    exact = prefill(smollm2_runner(), 0, PROMPT[:200], [200])
    runner = smollm2_runner(kv_dtype="float16")
    whole = prefill(runner, 0, PROMPT[:200], [200])
    assert 0 < np.abs(whole - exact).max() < 0.05 * np.abs(exact).max()
    np.testing.assert_array_equal(prefill(runner, 1, PROMPT[:200], cut(200, 33)), whole)
    assert runner.token_bytes * 2 == smollm2_runner().token_bytes


def test_the_probe_says_what_holds(runner: OrtRunner) -> None:
    check_logits(runner)
    assert is_invariant(runner)
