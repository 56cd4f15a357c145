"""Every architecture against what transformers answered: prefill and decode steps, in both forms of the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden import Golden, read_golden
from tiny_gguf import write_gguf
from tiny_models import IDS, NUM_KEPT, PROMPT, TINY, TOLERANCE, Weights, write_folder

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session


def make_runner(package: Path) -> OrtRunner:
    opened = open_package(package)
    session = make_session(opened.engine("float32"), 1)
    return OrtRunner(session, opened.manifest, num_slots=4, max_model_len=64, max_chunk=32)


def engine_logits(runner: OrtRunner, slot: int = 1) -> np.ndarray:
    is_long = runner.rope_switch is not None and len(IDS) > runner.rope_switch
    steps = [Row(slot, 0, IDS[:PROMPT], 1, is_long)]
    steps += [Row(slot, position, [IDS[position]], 1, is_long) for position in range(PROMPT, len(IDS))]
    return np.concatenate([runner.run([row]).copy() for row in steps])


def portable_logits(package: Path) -> np.ndarray:
    """The whole sequence in one run of model.onnx."""
    session = make_session(package / "model.onnx", 1)
    kv = open_package(package).manifest.kv
    count = np.arange(len(IDS))[None]
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones_like(count), "position_ids": count}
    empty = np.zeros((1, kv.num_heads, 0, kv.head_size), np.float32)
    feeds |= {each.name: empty for each in session.get_inputs() if each.name.startswith("past_key_values")}
    return session.run(["logits"], feeds)[0][0][-NUM_KEPT:]


def compiled(golden: Golden, folder: Path, options: CompileOptions) -> Path:
    return compile_folder(write_folder(golden.model, folder / "model"), folder / "package", options)


@pytest.mark.parametrize("name", TINY)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    golden = read_golden()[name]
    package = compiled(golden, tmp_path, CompileOptions(accuracy="float32"))
    largest = np.abs(golden.logits).max()
    errors = [
        np.abs(got - golden.logits).max() / largest
        for got in (engine_logits(make_runner(package)), portable_logits(package))
    ]
    print(f"{name}: engine {errors[0]:.1e}, model.onnx {errors[1]:.1e}")
    assert max(errors) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if not tiny.not_in_gguf])
def test_the_same_weights_in_gguf_give_the_same_logits(name: str, tmp_path: Path) -> None:
    golden = read_golden()[name]
    file = write_gguf(golden.model, tmp_path / "tiny.gguf")
    package = compile_gguf(file, tmp_path / "package", CompileOptions(accuracy="float32"))
    error = np.abs(engine_logits(make_runner(package)) - golden.logits).max() / np.abs(golden.logits).max()
    print(f"{name} in GGUF: engine {error:.1e}")
    assert error <= TOLERANCE


def fused(weights: Weights) -> Weights:
    """Queries, keys and values of a layer on top of each other, as the first files of Phi-2 have them."""
    joined: dict[str, list[np.ndarray]] = {}
    for name, values in sorted(weights.items(), key=lambda item: item[0].replace("attn_q", "attn_0")):
        block, _, ending = name.partition(".attn_")
        part, _, kind = f"attn_{ending}".partition(".")
        joined.setdefault(f"{block}.attn_qkv.{kind}" if part in ("attn_q", "attn_k", "attn_v") else name, []).append(
            values
        )
    return {name: np.concatenate(values) for name, values in joined.items()}


def apart(weights: Weights) -> Weights:
    """Each expert in a tensor of its own, as the first files of Mixtral have them."""
    found: Weights = {}
    for name, values in weights.items():
        if "_exps." in name:
            found |= {name.replace("_exps.", f".{expert}."): each for expert, each in enumerate(values)}
        else:
            found[name] = values
    return found


@pytest.mark.parametrize(("name", "change"), [("phi2", fused), ("phi2-odd", fused), ("mixtral", apart)])
def test_older_files_give_the_same_logits(name: str, change: Callable[[Weights], Weights], tmp_path: Path) -> None:
    golden = read_golden()[name]
    file = write_gguf(golden.model, tmp_path / "tiny.gguf", change)
    package = compile_gguf(file, tmp_path / "package", CompileOptions(accuracy="float32"))
    error = np.abs(engine_logits(make_runner(package)) - golden.logits).max() / np.abs(golden.logits).max()
    assert error <= TOLERANCE
