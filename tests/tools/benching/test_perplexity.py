"""Perplexity of windows, with a runner that foretells what we tell it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from click.testing import CliRunner

from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.tools.benching.perplexity import main, measure, perplexity, window_losses, windows

VOCAB = 10
TEXT = topics["conversions"]  # prose that Python carries


class Foreteller:
    """Gives the token after `i` in counting order `odds` times the weight of each other one."""

    def __init__(self, odds: float) -> None:
        self.odds, self.read = odds, []

    def run(self, rows: Sequence[Row]) -> np.ndarray:
        (row,) = rows
        assert row.start == len(self.read)
        self.read += row.token_ids
        logits = np.zeros((len(row.token_ids), VOCAB), np.float32)
        logits[np.arange(len(logits)), [(i + 1) % VOCAB for i in row.token_ids]] = np.log(self.odds)
        return logits[len(logits) - row.num_logits :]

    def free(self, slot: int, keep: int = 0) -> None:
        self.read = []


def counting(length: int) -> list[int]:
    return [i % VOCAB for i in range(length)]


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    found = perplexity(Foreteller(1.0), [counting(8), counting(8)])
    assert found.value == pytest.approx(VOCAB)
    assert found.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("length", [4, 5, 8, 511, 512, 600])
def test_the_tokens_behind_the_middle_are_scored(length: int) -> None:
    losses = window_losses(Foreteller(9.0), counting(length))
    assert len(losses) == length - 1 - length // 2
    np.testing.assert_allclose(losses, np.log(2))  # 9 of 9 + 9


def test_a_surprise_costs_what_its_odds_say() -> None:
    window = [*counting(8)[:-1], 3]
    np.testing.assert_allclose(window_losses(Foreteller(9.0), window), np.log([2, 2, 18]))


def test_windows_are_whole_and_begin_as_texts_do() -> None:
    assert list(windows([7, 1, 2, 3, 4, 5], 3, bos=7)) == [[7, 1, 2], [7, 4, 5]]
    assert list(windows([0, 1, 2, 3, 4, 5, 6], 3, bos=7)) == [[0, 1, 2], [3, 4, 5]]
    assert list(windows([0, 1], 3, bos=None)) == []


def test_prose_is_likelier_than_its_words_in_disorder(smollm2: Package) -> None:
    words = TEXT.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    assert 2 * measure(smollm2.path, " ".join(words), 64).value < measure(smollm2.path, shuffled, 64).value


def test_the_command_line(smollm2: Package, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    command = [str(smollm2.path), str(tmp_path / "text"), "-c"]
    assert CliRunner().invoke(main, [*command, "128"]).output.startswith("perplexity ")
    short = CliRunner().invoke(main, [*command, "800"])
    assert (short.exit_code, "fewer than 800 tokens" in short.output) == (1, True)
