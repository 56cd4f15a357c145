"""Perplexity of a package on a text, over the same tokens as llama.cpp's `llama-perplexity` and so comparable with it.

`python -m mistralrs_onnx.tools.benching.perplexity PACKAGE FILE`. The text is cut into windows of equal length, what is
left is not read, and only the second half of each window is scored: its tokens have something to go by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.model import LoadOptions, make_runner
from mistralrs_onnx.runtime.core import Row, Runner
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sessions import make_session
from mistralrs_onnx.tools.cli.failures import reported

CHUNK = 128  # tokens of a step; with the largest vocabularies their logits take 128 MiB


class Perplexity(NamedTuple):
    """exp of the mean loss of `num_tokens`; `error` is its standard error, were tokens independent."""

    value: float
    error: float
    num_tokens: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("package", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-c", "--context", type=click.IntRange(4), default=512, show_default=True, help="Tokens of a window.")
@click.option("-t", "--threads", type=click.IntRange(1), help="Threads to compute with.  [default: one per processor]")
def main(package: Path, text: Path, context: int, threads: int | None) -> None:
    """Say how well the model in PACKAGE foretells the file TEXT. Less is better; compare with llama-perplexity -c."""
    with reported():
        found = measure(package, text.read_text(encoding="utf-8"), context, threads)
    click.echo(f"perplexity {found.value:.4f} +/- {found.error:.4f} over {found.num_tokens} tokens")


def measure(folder: Path, text: str, context: int, threads: int | None = None) -> Perplexity:
    """Raises PackageError, and RequestError for a text that is too short or a context that is too long."""
    package = open_package(folder)
    if context > package.manifest.context_length:
        raise RequestError(f"windows of {context} tokens, but the model reads {package.manifest.context_length}")
    cut = list(windows(package.tokenizer().encode(text).ids, context, package.manifest.bos_token_id))
    if not cut:
        raise RequestError(f"the text has fewer than {context} tokens: take a longer one, or a smaller context")
    options = LoadOptions(EngineOptions(max_seqs=1, max_model_len=context, prefill_chunk=CHUNK), num_threads=threads)
    runner = make_runner(package, options, make_session(package.engine("float32"), threads))
    return perplexity(runner, cut)


def windows(ids: Sequence[int], context: int, bos: int | None) -> Iterator[list[int]]:
    """Whole windows; where the tokenizer puts a BOS before a text, it takes the place of each one's first token."""
    starts_with_bos = bos is not None and ids[:1] == [bos]
    for start in range(0, len(ids) - context + 1, context):
        window = list(ids[start : start + context])
        yield [bos, *window[1:]] if starts_with_bos and bos is not None else window


def perplexity(runner: Runner, cut: Sequence[Sequence[int]]) -> Perplexity:
    losses = np.concatenate([window_losses(runner, window) for window in cut])
    value = float(np.exp(losses.mean()))
    return Perplexity(value, value * float(losses.std(ddof=1)) / len(losses) ** 0.5, len(losses))


def window_losses(runner: Runner, window: Sequence[int]) -> NDArray[np.float64]:
    """Nats of the tokens behind the middle one."""
    first, last = len(window) // 2, len(window) - 1  # tokens that foretell the next
    bounds = sorted({*range(0, first, CHUNK), *range(first, last, CHUNK), last})
    steps = [Row(0, a, window[a:b], b - a if a >= first else 0) for a, b in pairwise(bounds)]
    losses = [nats(runner.run([step]), window[step.start + 1 :]) for step in steps]
    runner.free(0)
    return np.concatenate(losses)


def nats(logits: NDArray[np.float32], following: Sequence[int]) -> NDArray[np.float64]:
    """Loss of the token that follows each row."""
    wide = logits.astype(np.float64)
    chosen = wide[np.arange(len(wide)), following[: len(wide)]]
    return np.asarray(np.logaddexp.reduce(wide, axis=-1) - chosen)


if __name__ == "__main__":
    main()
