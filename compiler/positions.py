"""Rotary positions as configs describe them: how each kind of scaling changes the frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.rotary import LongRope, Rope
from mistralrs_onnx.ops.rope import inverse_frequencies

from .config import Config
from .errors import CompileError

Frequencies = NDArray[np.float64]


def read_rope(config: Config, head_size: int) -> Rope | LongRope:
    """Of `rope_theta`, `rope_scaling`, and how many elements of a head turn: `rotary_dim`, or else a part of them,
    `partial_rotary_factor`. Raises CompileError for an unknown scaling.
    """
    part = min(config.number("partial_rotary_factor", 1.0), 2.0)
    rotary_dim = config.size("rotary_dim") if "rotary_dim" in config else int(head_size * part)
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_size:
        raise CompileError(f"heads of {head_size} cannot turn {rotary_dim} elements: it must be even and no more")
    base = config.number("rope_theta", 10000.0)
    plain = inverse_frequencies(base, rotary_dim)
    scaling = config.part("rope_scaling")
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind in ("su", "longrope") or (kind == "yarn" and "long_factor" in scaling):
        return _long(config, scaling, plain)
    if kind == "yarn":
        return _yarn(config, scaling, plain, base)
    if kind not in SCALINGS:
        raise CompileError(
            f"RoPE scaling {kind!r} is not supported: known are {', '.join(SCALINGS)}, yarn, longrope, su"
        )
    return _rope(SCALINGS[kind](config, scaling, plain))


def plain_rope(base: float, rotary_dim: int) -> Rope:
    return _rope(inverse_frequencies(base, rotary_dim))


def _rope(frequencies: Frequencies, scale: float = 1.0) -> Rope:
    return Rope(tuple(frequencies.tolist()), scale)


def _unscaled(config: Config, scaling: Config, plain: Frequencies) -> Frequencies:
    """GGUF files keep Llama 3's scaling as a divisor of each frequency."""
    return plain / _factors(config, "rope_factors", len(plain)) if "rope_factors" in config else plain


def _linear(config: Config, scaling: Config, plain: Frequencies) -> Frequencies:
    """Positions are divided by a factor (Chen et al., 2023)."""
    return plain / scaling.number("factor")


def _llama3(config: Config, scaling: Config, plain: Frequencies) -> Frequencies:
    """Slow turns are divided by the factor, fast ones stay, those between are blended (Llama 3.1)."""
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    turns = scaling.number("original_max_position_embeddings") * plain / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return plain / scaling.number("factor") * (1 - blend) + plain * blend


SCALINGS: dict[str, Callable[[Config, Config, Frequencies], Frequencies]] = {
    "default": _unscaled,
    "none": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
}


def _yarn(config: Config, scaling: Config, plain: Frequencies, base: float) -> Rope:
    """Frequencies that turn less than `beta_slow` times in the original context are divided by the factor, those that
    turn more than `beta_fast` times stay, with a ramp over their indices between (Peng et al., 2023).
    """
    factor, dim = scaling.number("factor"), 2 * len(plain)
    original = scaling.number("original_max_position_embeddings", config.number("max_position_embeddings"))

    def index(turns: float) -> float:
        return dim * (math.log(original) - math.log(turns) - math.log(2 * math.pi)) / (2 * math.log(base))

    low, high = index(scaling.number("beta_fast", 32.0)), index(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / max(high - low, 0.001), 0, 1)
    return _rope(plain / factor * ramp + plain * (1 - ramp), _yarn_scale(scaling, factor))


def _yarn_scale(scaling: Config, factor: float) -> float:
    """What keeps the entropy of attention; `mscale` and `mscale_all_dim` are DeepSeek's weights of it."""

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in scaling:
        return scaling.number("attention_factor")
    if "mscale" in scaling and "mscale_all_dim" in scaling:
        return magnitude(scaling.number("mscale")) / magnitude(scaling.number("mscale_all_dim"))
    return magnitude(1.0)


def _long(config: Config, scaling: Config, plain: Frequencies) -> Rope | LongRope:
    length = config.size("max_position_embeddings")
    original = config.size("original_max_position_embeddings", scaling.size("original_max_position_embeddings", length))
    short, long = (plain / _factors(scaling, f"{kind}_factor", len(plain)) for kind in ("short", "long"))
    factor = scaling.number("factor", length / original)
    scale = _long_scale(scaling, factor, original)
    if length <= original:
        return _rope(short, scale)
    return LongRope(tuple(short.tolist()), tuple(long.tolist()), scale, original)


def _long_scale(scaling: Config, factor: float, original: int) -> float:
    """Ding et al., 2024; the older kind named `yarn` has YaRN's."""
    if "attention_factor" in scaling:
        return scaling.number("attention_factor")
    if scaling.text("rope_type", scaling.text("type", "longrope")) == "yarn":
        return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _factors(config: Config, key: str, length: int) -> Frequencies:
    factors = np.array(config.numbers(key))
    if len(factors) != length:
        raise CompileError(f"config key {key} must have {length} numbers, got {len(factors)}")
    return factors
