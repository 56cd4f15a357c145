"""The config of an X-LoRA classifier: xlora_config.json, or the adapter_config.json that PEFT writes of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mistralrs_onnx.compiler.checkpoints.source import about
from mistralrs_onnx.compiler.checkpoints.strict_json import parse_object
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.json_files import read_file

from .files import check_name

logger = logging.getLogger(__name__)

MAX_CONFIG = 1 << 20  # bytes
MAX_DEPTH = 64
MAX_SIZE = 1 << 20
MAX_ADAPTERS = 256
LARGEST = 1e6  # weights and scaling values

Layout = Literal["xlora", "peft"]

# How it was trained, or what others do with it; xlora_dropout_p too, for nothing is dropped at inference.
HARMLESS = frozenset(
    {
        *("device", "model_type", "stop_token_id", "use_trainable_adapters", "xlora_dropout_p"),
        *("auto_mapping", "inference_mode", "peft_type", "peft_version", "revision", "task_type"),
    }
)
REFUSED = {
    "use_mean_pool": "it makes one set of scalings of a whole prompt",
}
READ = frozenset(
    {
        *("hidden_size", "adapters", "base_model_id", "base_model_name_or_path", "xlora_depth", "xlora_size"),
        *("layerwise_scalings", "enable_relu_and_dropout", "use_bias", "enable_softmax", "softmax_temperature"),
        *("top_k_lora", "enable_softmax_topk", "scaling_pass_value", "global_scaling_weight"),
    }
)


@dataclass(frozen=True, slots=True)
class XLoraConfig:
    """Keys are those of the file, their defaults those of the training code.

    `adapters`: names in the order of training, and the path of each where the file says one, else an empty string.
    `layout`: whose the file is, which also says how tensors are called. PEFT's classifiers always have biases and ReLU.
    """

    hidden_size: int
    layout: Layout = "xlora"
    base_model_id: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    layerwise_scalings: bool = False
    enable_relu_and_dropout: bool = False
    use_bias: bool = True
    xlora_depth: int = 1
    xlora_size: int = 2048
    enable_softmax: bool = True
    softmax_temperature: float = 1.0
    top_k_lora: int | None = None
    enable_softmax_topk: bool = False
    scaling_pass_value: float = 0.0
    global_scaling_weight: float = 1.0


def read_xlora_config(path: Path) -> XLoraConfig:
    """Raises CompileError, which names the file and the key."""
    with about(path):
        values = parse_object(read_file(path, MAX_CONFIG), "file")
    try:
        return parse_xlora_config(values)
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error


def parse_xlora_config(values: Mapping[str, Any]) -> XLoraConfig:
    kind = values.get("peft_type")
    if kind not in (None, "XLORA"):
        raise CompileError(f"peft_type must be XLORA, got {_shown(kind)}: this is the config of another adapter")
    for key, reason in REFUSED.items():
        if values.get(key):
            raise CompileError(f"{key} is not supported: {reason}")
    unknown = sorted(key for key, value in values.items() if value and key not in {*READ, *HARMLESS, *REFUSED})
    if unknown:
        logger.warning("X-LoRA config: not known, and not used: %s", ", ".join(key[:80] for key in unknown[:20]))
    is_peft = kind is not None
    default = XLoraConfig(hidden_size=1)
    return XLoraConfig(
        hidden_size=_whole(values.get("hidden_size"), "hidden_size", MAX_SIZE),
        layout="peft" if is_peft else "xlora",
        base_model_id=_text(values, "base_model_name_or_path" if is_peft else "base_model_id"),
        adapters=_adapters(values.get("adapters")),
        layerwise_scalings=_flag(values, "layerwise_scalings", default.layerwise_scalings),
        enable_relu_and_dropout=is_peft or _flag(values, "enable_relu_and_dropout", default.enable_relu_and_dropout),
        use_bias=is_peft or _flag(values, "use_bias", default.use_bias),
        xlora_depth=_whole(values.get("xlora_depth", default.xlora_depth), "xlora_depth", MAX_DEPTH),
        xlora_size=_whole(values.get("xlora_size", default.xlora_size), "xlora_size", MAX_SIZE),
        enable_softmax=_flag(values, "enable_softmax", default.enable_softmax),
        softmax_temperature=_temperature(values.get("softmax_temperature", default.softmax_temperature)),
        top_k_lora=_top_k(values.get("top_k_lora")),
        enable_softmax_topk=_flag(values, "enable_softmax_topk", default.enable_softmax_topk),
        scaling_pass_value=_number(values, "scaling_pass_value", default.scaling_pass_value),
        global_scaling_weight=_number(values, "global_scaling_weight", default.global_scaling_weight),
    )


def _whole(value: object, key: str, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise CompileError(f"{key} must be an integer from 1 to {most}, got {_shown(value)}")
    return value


def _top_k(value: object) -> int | None:
    return None if value is None else _whole(value, "top_k_lora", MAX_SIZE)


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise CompileError(f"{key} must be true or false, got {_shown(value)}")
    return value


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise CompileError(f"{key} must be a number within ±{LARGEST:g}, got {_shown(value)}")
    return float(value)


def _temperature(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 / LARGEST <= value <= LARGEST:
        raise CompileError(
            f"softmax_temperature must be a number from {1 / LARGEST:g} to {LARGEST:g}, got {_shown(value)}"
        )
    return float(value)


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if not isinstance(value, str | None):
        raise CompileError(f"{key} must be a string, got {_shown(value)}")
    return value or None


def _adapters(value: object) -> dict[str, str]:
    """A list has names only. Names could be a way to another place; paths are never followed."""
    names = [] if value is None else value
    if not isinstance(names, list | dict) or not all(isinstance(name, str) for name in names):
        raise CompileError(f"adapters must be a list of names or an object of names and paths, got {_shown(value)}")
    if len(names) > MAX_ADAPTERS:
        raise CompileError(f"adapters must be at most {MAX_ADAPTERS}, got {len(names)}")
    for name in names:
        check_name(name)
    if isinstance(names, dict):
        return {name: path if isinstance(path, str) else "" for name, path in names.items()}
    for name in names:
        if names.count(name) > 1:
            raise CompileError(f"adapters must name each adapter once, got {name} twice")
    return dict.fromkeys(names, "")


def _shown(value: object) -> str:
    return repr(value)[:80]
