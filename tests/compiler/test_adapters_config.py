"""adapter_config.json: which modules, which rank, which scale, and what is refused by name."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.compiler.adapters.config import REFUSED, AdapterConfig, parse_config, read_config
from mistralrs_onnx.compiler.adapters.patterns import checked, key_of
from mistralrs_onnx.compiler.errors import CompileError

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
EXPERT = "model.layers.1.block_sparse_moe.experts.0.w1"


def config(**values: Any) -> AdapterConfig:
    return parse_config({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]} | values)


@pytest.mark.parametrize(
    ("values", "module", "is_adapted"),
    [
        ({}, Q0, True),
        ({}, "q_proj", True),
        ({}, "model.layers.0.self_attn.xq_proj", False),
        ({"target_modules": ["_proj"]}, Q0, False),
        ({"target_modules": ["self_attn.q_proj"]}, Q0, True),
        ({"target_modules": [Q0]}, Q0, True),
        ({"target_modules": [Q0]}, Q1, False),
        ({"target_modules": ["q.proj"]}, Q0, False),  # names in lists are no patterns
        ({"target_modules": r".*\.q_proj"}, Q0, True),
        ({"target_modules": r"q_proj"}, Q0, False),  # all of the name
        ({"target_modules": r".*\.(0|2)\..*[qk]_proj"}, Q1, False),
        ({"target_modules": "all-linear"}, "model.layers.0.mlp.up_proj", True),
        ({"target_modules": "All-Linear"}, "lm_head", False),
        ({"target_modules": ["lm_head"]}, "lm_head", True),
        ({"target_modules": []}, Q0, False),
        ({"target_modules": None}, Q0, True),
        ({"exclude_modules": ["q_proj"]}, Q0, False),
        ({"exclude_modules": [Q1]}, Q0, True),
        ({"exclude_modules": r".*\.1\..*"}, Q1, False),
        ({"exclude_modules": r".*\.1\..*"}, Q0, True),
        ({"layers_to_transform": [0]}, Q0, True),
        ({"layers_to_transform": [0]}, Q1, False),
        ({"layers_to_transform": 1}, Q1, True),
        ({"layers_to_transform": []}, Q1, True),
        ({"layers_to_transform": [1], "target_modules": ["w1"]}, EXPERT, True),  # the layer counts, not the expert
        ({"layers_to_transform": [0], "target_modules": ["w1"]}, EXPERT, False),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, Q0, True),
        ({"layers_to_transform": [0], "layers_pattern": ["h", "layers"]}, Q0, True),
        ({"layers_to_transform": [0], "layers_pattern": ["h"]}, Q0, False),
        ({"layers_to_transform": [0], "layers_pattern": "experts", "target_modules": ["w1"]}, EXPERT, True),
        ({"layers_to_transform": [0], "target_modules": [Q1]}, Q1, True),  # a whole name is in any layer
    ],
)
def test_which_modules_are_adapted(values: dict[str, Any], module: str, is_adapted: bool) -> None:
    assert config(**values).adapts(module) is is_adapted


@pytest.mark.parametrize(
    ("values", "rank", "scale"),
    [
        ({}, 8, 2.0),
        ({"lora_alpha": 4}, 8, 0.5),
        ({"lora_alpha": 2.5}, 8, 0.3125),
        ({"r": 16, "use_rslora": True}, 16, 4.0),
        ({"rank_pattern": {"q_proj": 4}}, 4, 4.0),
        ({"alpha_pattern": {"q_proj": 4}}, 8, 0.5),
        ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 2}, "use_rslora": True}, 4, 1.0),
        ({"rank_pattern": {"k_proj": 4, "_proj": 2, "proj": 1}}, 8, 2.0),
        ({"rank_pattern": {r".*_proj": 4, "q_proj": 2}}, 4, 4.0),  # the first that means it
        ({"rank_pattern": {r"layers\.1\..*": 2, r"layers\.0\..*": 4}}, 4, 4.0),
        ({"rank_pattern": {"^q_proj": 2}}, 8, 2.0),
        ({"rank_pattern": {f"^{Q0}": 4}}, 4, 4.0),
        ({"rank_pattern": {"k_proj|q_proj": 4}}, 4, 4.0),
    ],
)
def test_rank_and_scale(values: dict[str, Any], rank: int, scale: float) -> None:
    assert config(**values).rank(Q0) == rank
    assert config(**values).scale(Q0) == scale


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_compute_otherwise_is_refused_by_name(key: str) -> None:
    assert config(**{key: None}) == config(**{key: False}) == config()
    with pytest.raises(CompileError, match=f"^{key} is not supported"):
        config(**{key: {"some": "value"}})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"peft_type": "IA3"}, "peft_type must be LORA, got 'IA3'"),
        ({"peft_type": "XLORA"}, "peft_type must be LORA, got 'XLORA'"),
        ({"task_type": "SEQ_CLS"}, "task_type must be CAUSAL_LM, got 'SEQ_CLS'"),
        ({"bias": "all"}, "bias must be none, got 'all'"),
        ({"bias": "lora_only"}, "bias must be none"),
        *(({"init_lora_weights": kind}, kind) for kind in ("pissa", "pissa_niter_16", "olora", "corda", "loftq")),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights 'lora_ga' is not supported"),
        ({"init_lora_weights": []}, "init_lora_weights"),
        ({"r": 0}, "r must be a positive integer, got 0"),
        ({"r": -1}, "r must be a positive integer"),
        ({"r": True}, "r must be a positive integer, got True"),
        ({"r": 8.0}, r"r must be a positive integer, got 8\.0"),
        ({"r": None}, "r must be a positive integer, got None"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number"),
        ({"lora_alpha": float("inf")}, "lora_alpha must be a number"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number within"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of 'q_proj' must be a positive integer"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern of 'q_proj' must be a number"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern must be a regular expression"),
        ({"target_modules": "*"}, "target_modules must be a regular expression"),
        ({"target_modules": [1]}, "target_modules must be a string or a list of names"),
        ({"target_modules": {"q_proj": 1}}, "target_modules must be"),
        ({"exclude_modules": 3}, "exclude_modules must be"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be layer numbers"),
        ({"layers_to_transform": [-1]}, "layers_to_transform must be layer numbers"),
        ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "layers_to_transform needs a list"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path must be a string"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(CompileError, match=text):
        config(**values)


@pytest.mark.parametrize("kind", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_beginnings_that_leave_the_base_alone(kind: object) -> None:
    assert config(init_lora_weights=kind) == config()


@pytest.mark.parametrize(
    "values", [{"fan_in_fan_out": True}, {"lora_dropout": 0.1}, {"inference_mode": True}, {"revision": "main"}]
)
def test_what_changes_nothing_is_ignored_in_silence(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert config(**values) == config()
    assert not caplog.records


def test_unknown_keys_are_warned_of_unless_they_are_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config(use_newest_idea=True, use_another=False, third=None)
    assert "use_newest_idea" in caplog.text
    assert "use_another" not in caplog.text
    assert "third" not in caplog.text


# As PEFT, Unsloth and others write them.
@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q_proj|v_proj)",
        r"model\.layers\.(1[0-9]|2[0-9])\.self_attn\.(q|k|v|o)_proj",
        (
            r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp|ffn|dense).*?(?:q_proj|k_proj|down_proj).*?)"
            r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|down_proj)))"
        ),
        r"^(?!.*vision).*(q_proj)$",
        r"(.*\.)?q_proj",
    ],
)
def test_usual_patterns_are_taken(pattern: str) -> None:
    checked(pattern, "target_modules")


@pytest.mark.parametrize(
    "pattern",
    [
        "(.*)*x",
        "(a+)+$",
        "((a|a))*$",
        "(a|aa)+$",
        "(?:(?:x?y*)){2,}",
        r"(.)\1*",
        r"(?P<a>.)(?P=a)",
        "(?x)( # )\n.* )*",
        ".*.*.*.*.*!",
        "a" * 20_000,
    ],
)
def test_patterns_that_take_for_ever_are_not_run(pattern: str) -> None:
    with pytest.raises(CompileError, match=r"^rank_pattern (may take for ever|.*at most \d+ (letters|repeats))"):
        config(rank_pattern={pattern: 4})


def test_the_slowest_pattern_that_is_taken_ends() -> None:
    begin = time.monotonic()
    assert key_of([".*.*.*.*!"], "model.layers.10.block_sparse_moe.experts.7.w1", "rank_pattern") is None
    assert time.monotonic() - begin < 60  # hangs otherwise


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"r": 1, "r": 2}', b"[" * 100_000, b'{"r": 1' + b"0" * 5000 + b"}"],
)
def test_no_file_is_a_traceback(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"adapter_config\.json: "):
        read_config(path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "use_dora": True}))
    with pytest.raises(CompileError, match=r"adapter_config\.json: use_dora is not supported .*: merge it"):
        read_config(path)
