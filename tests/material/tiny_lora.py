"""Random adapters in the form that the runtime packs, without files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tiny_adapters import drawn

from mistralrs_onnx.graphs.contract import LoraGroup, Update
from mistralrs_onnx.runtime.adapters import Adapter, pack_adapter


def make_updates(
    groups: Sequence[LoraGroup],
    rank: int,
    seed: int = 0,
    wanted: Callable[[str], bool] = lambda linear: True,
    scale: float = 1.0,
) -> dict[str, Update]:
    """For the linears that are wanted; B times `scale`."""
    updates: dict[str, Update] = {}
    for group in groups:
        for linear, width in zip(group.linears, group.out_features, strict=True):
            if wanted(linear):
                a = drawn(f"{linear}.A", (rank, group.in_features), seed)
                updates[linear] = Update(a, drawn(f"{linear}.B", (width, rank), seed) * scale)
    return updates


def make_adapter(
    name: str,
    groups: Sequence[LoraGroup],
    rank: int = 4,
    seed: int = 0,
    wanted: Callable[[str], bool] = lambda linear: True,
    scale: float = 1.0,
) -> Adapter:
    """`name` and `seed` tell it from others."""
    return pack_adapter(name, f"{name} {seed}", make_updates(groups, rank, seed, wanted, scale), groups)
