"""What generation_config.json says of sampling, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.generation import read_defaults


def defaults(folder: Path, **values: Any) -> dict[str, Any]:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return dict(read_defaults(folder))


def test_what_requests_may_leave_unsaid(tmp_path: Path) -> None:
    values = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_new_tokens": 5, "min_p": None}
    assert defaults(tmp_path, **values) == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


def test_nothing_is_said_without_the_file_or_its_keys(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == {}
    assert defaults(tmp_path, eos_token_id=[1]) == {}


def test_a_model_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    assert defaults(tmp_path, do_sample=False, top_p=0.5, top_k=3, min_p=0.1) == {"temperature": 0.0}
    penalized = defaults(tmp_path, do_sample=False, repetition_penalty=1.1)
    assert penalized == {"temperature": 0.0, "repetition_penalty": 1.1}


def test_tokens_to_suppress_are_biases(tmp_path: Path) -> None:
    found = defaults(tmp_path, suppress_tokens=[5, 7], typical_p=0.9)
    assert found == {"typical_p": 0.9, "logit_bias": {5: -100.0, 7: -100.0}}
    with pytest.raises(PackageError, match="logit_bias must be an integer from 0"):
        defaults(tmp_path, suppress_tokens=[-1])


@pytest.mark.parametrize("values", [{"temperature": -1}, {"top_p": "much"}, {"top_k": 1.5}])
def test_values_that_cannot_be_meant_are_named(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(PackageError, match=f"generation_config.json cannot be used: {next(iter(values))}"):
        defaults(tmp_path, **values)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[" * 100_000)
    with pytest.raises(PackageError, match="--generation-config none"):
        read_defaults(tmp_path)


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(PackageError, match="cannot be used"):
        read_defaults(tmp_path)
