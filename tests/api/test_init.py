"""What the package offers by name, and that asking for none of it loads none of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mistralrs_onnx

HEAVY = {"onnxruntime", "onnx", "onnx_ir", "onnxscript", "sanic", "numpy", "tokenizers"}


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, mistralrs_onnx; dir(mistralrs_onnx); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("name", mistralrs_onnx.__all__)
def test_every_name_is_there(name: str) -> None:
    assert name in dir(mistralrs_onnx)
    assert getattr(mistralrs_onnx, name).__name__ == name


def test_all_names_are_in_the_table() -> None:
    assert sorted(mistralrs_onnx.EXPORTS) == sorted(mistralrs_onnx.__all__)


def test_other_names_are_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'mistralrs_onnx' has no attribute 'Runer'"):
        mistralrs_onnx.Runer  # noqa: B018
