"""Options of checkpoints say what the compiler knows, without importing it."""

from __future__ import annotations

from mistralrs_onnx.compiler.adapters.merge import MERGE_DTYPES
from mistralrs_onnx.compiler.archs import ARCHS
from mistralrs_onnx.compiler.compile import DTYPES
from mistralrs_onnx.compiler.sources.token_source import GRAMMAR
from mistralrs_onnx.compiler.templates.find import NAMES
from mistralrs_onnx.tools.cli import checkpoints


def test_names_are_the_compilers() -> None:
    assert ", ".join(ARCHS) == checkpoints.ARCHS
    assert tuple(DTYPES) == checkpoints.DTYPES
    assert tuple(MERGE_DTYPES) == checkpoints.MERGE_DTYPES
    assert ", ".join(NAMES) == checkpoints.TEMPLATES
    assert GRAMMAR == checkpoints.TOKENS
