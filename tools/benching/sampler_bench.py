"""Times the sampler alone, setting by setting: `python -m mistralrs_onnx.tools.benching.sampler_bench`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.runtime import rows
from mistralrs_onnx.runtime.masks import num_words
from mistralrs_onnx.runtime.native import library_file
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import num_processors

WARM = {"temperature": 0.8}
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1, "repeat_last_n": 0}
DRY = {"dry_multiplier": 0.8, "dry_sequence_breakers": (10, 11, 12, 13)}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": WARM,
    "top-k 40": {**WARM, "top_k": 40},
    "top-p 0.9": {**WARM, "top_p": 0.9},
    "top-p 0.9, temperature 5": {"temperature": 5.0, "top_p": 0.9},
    "min-p 0.05": {**WARM, "min_p": 0.05},
    "typical-p 0.9": {**WARM, "typical_p": 0.9},
    "top-k 40, top-p 0.9, min-p 0.05": {**WARM, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    "greedy, penalties": {"temperature": 0, **PENALTIES},
    "greedy, DRY": {"temperature": 0, **DRY},
    "greedy, 1024 biases": {"temperature": 0, "logit_bias": dict.fromkeys(range(1024), 1.0)},
    "greedy, 1000 allowed tokens": {"temperature": 0, "allowed_token_ids": frozenset(range(1000))},
    "greedy, 256 bad words": {"temperature": 0, "bad_words": tuple((i, i + 1) for i in range(256))},
    "greedy, mask": {"temperature": 0},
    "top-p 0.9, mask": {**WARM, "top_p": 0.9},
    "top-p 0.9, mask of 300 tokens": {**WARM, "top_p": 0.9},
    "greedy, 20 logprobs": {"temperature": 0, "logprobs": 20},
    "top-p 0.9, penalties": {**WARM, "top_p": 0.9, **PENALTIES},
    "top-p 0.9, penalties, DRY, 20 logprobs": {**WARM, "top_p": 0.9, **PENALTIES, **DRY, "logprobs": 20},
}


def likely_logits(batch: int, vocab: int) -> NDArray[np.float32]:
    """As models have them: a wide bell, and a few hundred tokens that stand out of it, ever fewer ever further."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.5, (batch, vocab)).astype(np.float32)
    for row in logits:
        row[rng.choice(vocab, 300, replace=False)] += rng.exponential(4, 300).astype(np.float32) + 5
    return logits


def requests(batch: int, vocab: int, num_tokens: int, setting: Mapping[str, Any], num_allowed: int) -> list[Request]:
    """Half of their tokens is output. Masks have so many tokens at random; all of them are no mask."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(batch):
        tokens = rng.zipf(1.3, num_tokens).clip(0, vocab - 1)
        request = Request(i, tokens[: num_tokens // 2], SamplingParams(**setting), 10**6, i)
        request.token_ids.extend(tokens[num_tokens // 2 :].tolist())
        if num_allowed < vocab:
            bits = np.zeros(32 * num_words(vocab), np.uint8)
            bits[rng.choice(vocab, num_allowed, replace=False)] = 1
            request.mask = np.packbits(bits, bitorder="little").view(np.int32)
        made.append(request)
    return made


@contextmanager
def passes(file: Path | None) -> Iterator[None]:
    """Over rows by what was compiled, or by numpy if there is no file."""
    with patch.object(rows, "library_file", lambda: file):
        rows.compiled_rows.cache_clear()
        yield
    rows.compiled_rows.cache_clear()


def milliseconds(logits: NDArray[np.float32], contexts: Sequence[Request], repeat: int) -> tuple[float, float]:
    """The least time that tokens and their probabilities took together: others may use the machine.

    As it is here, and with numpy alone, in turns.
    """
    sampler = Sampler(num_threads=num_processors())
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeat):
        for file, found in zip((library_file(), None), times, strict=True):
            with passes(file):
                sampler.sample(logits, contexts)  # warms up
                begun = perf_counter()
                sampler.sample(logits, contexts)
                found.append(perf_counter() - begun)
    here, alone = (1000 * min(found) for found in times)
    return here, alone


@click.command()
@click.option("--batch", default=16, show_default=True, help="Rows sampled at once.")
@click.option("--vocab", default=150_000, show_default=True, help="Tokens of the vocabulary.")
@click.option("--context", default=2048, show_default=True, help="Tokens of each request so far, half of them output.")
@click.option("--step", default=100.0, show_default=True, help="Milliseconds of a step, of which to tell the share.")
@click.option("--repeat", default=50, show_default=True, help="Times, of which the fastest counts.")
def main(batch: int, vocab: int, context: int, step: float, repeat: int) -> None:
    """Prints what sampling costs in a step, as a Markdown table."""
    logits = likely_logits(batch, vocab)
    if rows.compiled_rows() is None:
        click.echo("nothing was compiled when this was installed: both columns are numpy's", err=True)
    click.echo(f"| setting | ms | of a step of {step:g} ms | with numpy alone |\n|---|--:|--:|--:|")
    for name, setting in SETTINGS.items():
        num_allowed = min(vocab, 300) if "300" in name else vocab // 2 if "mask" in name else vocab
        contexts = requests(batch, vocab, context, setting, num_allowed)
        here, alone = milliseconds(logits, contexts, repeat)
        click.echo(f"| {name} | {here:.2f} | {100 * here / step:.1f} % | {alone:.2f} |")


if __name__ == "__main__":
    main()
