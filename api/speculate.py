"""Who guesses tokens for a model: its own text, or a smaller model of the same vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.speculation import MAX_DRAFT

LARGEST_DRAFT = 64  # the rows that memory behind the last token is sure to hold


@dataclass(frozen=True, slots=True)
class SpeculateOptions:
    """`draft`: the package of a smaller model, or "lookup" for what came before in the text.

    `gamma`: the most tokens that are guessed for a request in a step. `adaptive`: fewer where guesses fall.
    """

    draft: Path | Literal["lookup"]
    gamma: int = MAX_DRAFT
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.gamma <= LARGEST_DRAFT:
            raise PackageError(f"gamma must be from 1 to {LARGEST_DRAFT} tokens, got {self.gamma}")


def check_vocabulary(target: Tokenizer, draft: Package) -> None:
    """Raises PackageError where a token of the draft means another text than for the model."""
    ours, theirs = target.get_vocab(with_added_tokens=True), draft.tokenizer().get_vocab(with_added_tokens=True)
    if ours == theirs:
        return
    differing = next(token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token))
    raise PackageError(
        f"{draft.path} has another vocabulary than the model: {differing[:64]!r} is token {theirs.get(differing)} "
        f"there and {ours.get(differing)} here; a draft model must have the same"
    )
