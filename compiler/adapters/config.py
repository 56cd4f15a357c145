"""adapter_config.json of a PEFT LoRA adapter: what it adapts, with which rank and scale, and what we refuse by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mistralrs_onnx.compiler.checkpoints.source import about
from mistralrs_onnx.compiler.checkpoints.strict_json import parse_object
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.json_files import read_file

from .files import CONFIG
from .patterns import checked, key_of

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

MAX_CONFIG = 4 << 20  # bytes; patterns may name every module
LARGEST_ALPHA = 1e6
ALL_LINEAR = "all-linear"
LM_HEAD = "lm_head"

# A layer's number follows the name of the list that it is in; the first such number counts, not an expert's.
_LAYER = r".*?\.[^.]*\.(?P<index>\d+)\."

REMEDY = "merge it into its model where it was trained, and compile that"
REFUSED = {
    "use_dora": "DoRA scales the norms of merged weights",
    "lora_bias": "biases beside B are not supported",
    "modules_to_save": "it replaces whole modules of the base",
    "trainable_token_indices": "it changes rows of the embedding table",
    "alora_invocation_tokens": "it switches itself on in the middle of a sequence",
    "layer_replication": "it repeats layers of the base",
    "use_qalora": "QALoRA pools the inputs of A",
    "use_bdlora": "block-diagonal matrices are not supported",
    "arrow_config": "Arrow chooses among adapters for each token",
    "kasa_config": "KaSA puts singular values between A and B",
    "monteclora_config": "MonteCLoRA samples its weights",
    "megatron_config": "Megatron splits its layers in its own way",
}
# Others change weights of the base before training: pissa, olora, corda, loftq, lora_ga.
KEPT_BASE = ("gaussian", "eva", "orthogonal", "mica")
READ = frozenset(
    {
        *("r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora"),
        *("layers_to_transform", "layers_pattern", "base_model_name_or_path", "peft_type", "task_type", "bias"),
        *("init_lora_weights", "target_parameters"),
    }
)
# How it was trained or is run elsewhere; fan_in_fan_out says how the base stores W, and A and B never differ for it.
HARMLESS = frozenset(
    {
        *("auto_mapping", "revision", "inference_mode", "lora_dropout", "fan_in_fan_out", "peft_version"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
    }
)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Names of modules are those of the Hugging Face model that was trained.

    `target_modules`: names or their endings, or one regular expression, or all-linear; None where the config does not
    say. `target_parameters`: names or endings of parameters, such as mlp.experts.down_proj or gate.weight. Patterns
    map regular expressions to ranks and alphas that differ from `r` and `lora_alpha`.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str | None = None
    target_parameters: tuple[str, ...] = ()
    exclude_modules: tuple[str, ...] | str = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    base_model: str | None = None

    def adapts(self, module: str) -> bool:
        """Whether training put an adapter on a linear layer (PEFT 0.21, check_target_module_exists)."""
        if _is_named(module, self.exclude_modules, "exclude_modules"):
            return False
        targets = self.target_modules
        if targets is None:
            return not self.target_parameters
        if isinstance(targets, str):
            if targets.lower() == ALL_LINEAR:
                return module != LM_HEAD
            return checked(targets, "target_modules").fullmatch(module) is not None
        return module in targets or (_ends(module, targets) and self._is_in_layers(module))

    def adapts_parameter(self, name: str) -> bool:
        return name in self.target_parameters or _ends(name, self.target_parameters)

    def rank(self, module: str) -> int:
        key = key_of(self.rank_pattern, module, "rank_pattern")
        return self.r if key is None else self.rank_pattern[key]

    def scale(self, module: str) -> float:
        """What b · (a · x) is multiplied by: alpha / rank, or alpha / √rank (Kalajdzievski, 2023)."""
        key = key_of(self.alpha_pattern, module, "alpha_pattern")
        alpha = self.lora_alpha if key is None else self.alpha_pattern[key]
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def _is_in_layers(self, module: str) -> bool:
        if not self.layers_to_transform:
            return True
        for name in self.layers_pattern or ("",):
            pattern = rf"(?:^|.*?\.)(?:{name})\.(?P<index>\d+)\." if name else _LAYER
            if found := checked(pattern, "layers_pattern").match(module):
                return int(found["index"]) in self.layers_to_transform
        return False


def _is_named(module: str, names: tuple[str, ...] | str, key: str) -> bool:
    if isinstance(names, str):
        return bool(names) and checked(names, key).fullmatch(module) is not None
    return module in names or _ends(module, names)


def _ends(module: str, names: tuple[str, ...]) -> bool:
    return any(module.endswith(f".{name}") for name in names)


def read_config(path: Path) -> AdapterConfig:
    """Raises CompileError, which names the file and the key, for all that we would not compute as PEFT does."""
    with about(path):
        values = parse_object(read_file(path, MAX_CONFIG), "file")
    try:
        return parse_config(values)
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error


def parse_config(values: Mapping[str, Any]) -> AdapterConfig:
    _refuse(values)
    config = AdapterConfig(
        r=_whole(values.get("r"), "r"),
        lora_alpha=_alpha(values.get("lora_alpha"), "lora_alpha"),
        target_modules=None if values.get("target_modules") is None else _names(values, "target_modules"),
        target_parameters=_list(_names(values, "target_parameters")),
        exclude_modules=_names(values, "exclude_modules"),
        rank_pattern=_pattern(values, "rank_pattern", _whole),
        alpha_pattern=_pattern(values, "alpha_pattern", _alpha),
        use_rslora=_flag(values, "use_rslora"),
        layers_to_transform=_layers(values.get("layers_to_transform")),
        layers_pattern=_list(_names(values, "layers_pattern")),
        base_model=_text(values, "base_model_name_or_path"),
    )
    if isinstance(config.target_modules, str) and config.layers_to_transform:
        raise CompileError("layers_to_transform needs a list of target_modules, got a string: leave one of them out")
    _check_patterns(config)
    return config


def _check_patterns(config: AdapterConfig) -> None:
    """Finds patterns that cannot be used now, and not at the first module."""
    if isinstance(config.target_modules, str):
        checked(config.target_modules, "target_modules")
    for key, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            checked(pattern, key)
    for name in config.layers_pattern:
        checked(name, "layers_pattern")


def _refuse(values: Mapping[str, Any]) -> None:
    kind, task = values.get("peft_type", "LORA"), values.get("task_type")
    if kind != "LORA":
        raise CompileError(f"peft_type must be LORA, got {kind!r}: other kinds of adapters are not supported")
    if task not in (None, "CAUSAL_LM"):
        raise CompileError(f"task_type must be CAUSAL_LM, got {task!r}: such models have another head")
    for key, reason in REFUSED.items():
        if values.get(key):
            raise CompileError(f"{key} is not supported ({reason}): {REMEDY}")
    if values.get("bias", "none") != "none":
        raise CompileError(f"bias must be none, got {values['bias']!r}: biases of the base are not adapted; {REMEDY}")
    start = values.get("init_lora_weights", True)
    if not isinstance(start, bool | None) and start not in KEPT_BASE:
        raise CompileError(
            f"init_lora_weights {start!r} is not supported, for it may change weights of the base: save the adapter"
            " with path_initial_model_for_weight_conversion, which makes a plain one of it"
        )
    unknown = sorted(key for key, value in values.items() if value and key not in {*READ, *HARMLESS, *REFUSED})
    if unknown:
        logger.warning("%s: not known, and not used: %s", CONFIG, ", ".join(key[:80] for key in unknown[:20]))


def _whole(value: object, key: str) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise CompileError(f"{key} must be a positive integer, got {_shown(value)}")
    return value


def _alpha(value: object, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST_ALPHA:
        raise CompileError(f"{key} must be a number within ±{LARGEST_ALPHA:g}, got {_shown(value)}")
    return float(value)


def _flag(values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key) or False
    if not isinstance(value, bool):
        raise CompileError(f"{key} must be true or false, got {_shown(value)}")
    return value


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if not isinstance(value, str | None):
        raise CompileError(f"{key} must be a string, got {_shown(value)}")
    return value


def _names(values: Mapping[str, Any], key: str) -> tuple[str, ...] | str:
    value = values.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise CompileError(f"{key} must be a string or a list of names, got {_shown(value)}")
    return tuple(value)


def _list(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,) if names else ()


def _layers(value: object) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise CompileError(f"layers_to_transform must be layer numbers, got {_shown(value)}")
    return tuple(numbers)


def _pattern(values: Mapping[str, Any], key: str, read: Callable[[object, str], Value]) -> Mapping[str, Value]:
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise CompileError(f"{key} must be an object, got {_shown(found)}")
    return {pattern: read(value, f"{key} of {pattern[:80]!r}") for pattern, value in found.items()}


def _shown(value: object) -> str:
    return repr(value)[:80]
