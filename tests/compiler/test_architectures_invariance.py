"""What manifests say of invariance: a request has the same bits alone, in company, and however its prompt is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from tiny_models import TINY, VOCAB, Described, write_folder

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.native import kernel_library
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.probe import settle_rows
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

IDS = np.random.default_rng(3).integers(2, VOCAB, 40).tolist()
PROMPT = 33  # the last chunk of many sizes is one token
CHUNKS = (1, 2, 7, 16)
COMPANY = [[20], [1], [9, 1]]  # tokens of the rows beside the request
CAPPED = ("gemma2", "gemma2-scaled")


class Probe:
    """One package in one thread, and in two where that could divide work in another way."""

    def __init__(
        self,
        model: Described,
        folder: Path,
        options: CompileOptions,
        threads: int = 1,
        kernels: Path | None = None,
    ) -> None:
        package = open_package(compile_folder(write_folder(model, folder / "model"), folder / "package", options))
        self.manifest: Manifest = package.manifest
        session = make_session(package.engine("float32"), threads, kernels=kernels)
        self._runner = OrtRunner(session, self.manifest, num_slots=4, max_model_len=64, max_chunk=64)
        settle_rows(self._runner)
        self._is_long = self._runner.rope_switch is not None and len(IDS) > self._runner.rope_switch

    def prefill(self, slot: int, chunk: int) -> np.ndarray:
        """Logits after the prompt."""
        for start in range(0, PROMPT, chunk):
            logits = self._runner.run([self._row(slot, start, IDS[start : min(start + chunk, PROMPT)])])
        return logits[0].copy()

    def decode(self, slot: int, others: list[int]) -> list[np.ndarray]:
        """Logits of the tokens behind the prompt, with rows of that many tokens beside it."""
        steps = []
        for position in range(PROMPT, PROMPT + 3):
            beside = [self._row(2 + i, 0, IDS[:count]) for i, count in enumerate(others)]
            steps.append(self._runner.run([self._row(slot, position, [IDS[position]]), *beside])[0].copy())
        return steps

    def differences(self) -> list[str]:
        whole = self.prefill(0, PROMPT)
        found = [f"chunks of {size}" for size in CHUNKS if not np.array_equal(self.prefill(1, size), whole)]
        alone = self.decode(0, [])
        return found + [f"beside {others}" for others in COMPANY if not np.array_equal(self.decode(1, others), alone)]

    def _row(self, slot: int, start: int, ids: list[int]) -> Row:
        return Row(slot, start, ids, 1, self._is_long)


def check(probe: Probe) -> None:
    assert probe.manifest.invariant == "yes"
    assert probe.differences() == []


@pytest.mark.parametrize("name", [name for name in TINY if name not in CAPPED])
def test_architectures_with_dense_weights(name: str, tmp_path: Path) -> None:
    check(Probe(read_golden()[name].model, tmp_path, CompileOptions()))


@pytest.mark.parametrize("kernels", [None, kernel_library()], ids=["stock", "native"])
@pytest.mark.parametrize(
    "name", ["gemma3-scaled", "phi2", "phi3-128k-long", "qwen2-moe", "mixtral", "smollm3", "olmo2", "gpt-oss"]
)
def test_architectures_with_packed_weights(name: str, tmp_path: Path, kernels: Path | None) -> None:
    """Of int4-64, whose stock kernel computes rows in pairs: where some matrices have it, the manifest says 2."""
    probe = Probe(read_golden()[name].model, tmp_path, CompileOptions(isq=Isq("int4-64")), kernels=kernels)
    assert probe.manifest.row_multiple == 2
    check(probe)


def test_capped_scores_in_a_window_are_not_invariant(tmp_path: Path) -> None:
    """A chunk caps the scores inside a window, a decode those of all keys: tanh rounds by place in its vector."""
    probe = Probe(read_golden()["gemma2"].model, tmp_path, CompileOptions())
    assert probe.manifest.invariant.startswith("no, because soft caps of scores in a window")
    assert "chunks of 16" in probe.differences()


def llama(hidden: int, head_size: int) -> Described:
    """Two layers, four heads over two key heads."""
    sizes = {"hidden_size": hidden, "head_dim": head_size, "intermediate_size": hidden, "num_hidden_layers": 2}
    queries, keys = 4 * head_size, 2 * head_size
    square, vector = (hidden, hidden), (hidden,)
    layer = {
        "input_layernorm": vector,
        "post_attention_layernorm": vector,
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": square,
        "mlp.up_proj": square,
        "mlp.down_proj": square,
    }
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()}
    tables = {"model.embed_tokens.weight": (VOCAB, hidden), "lm_head.weight": (VOCAB, hidden)}
    return Described(read_golden()["llama"].model.config | sizes, shapes | tables | {"model.norm.weight": vector})


@pytest.mark.parametrize("head_size", [24, 64, 80, 96, 128])
@pytest.mark.parametrize("threads", [1, 2])
def test_head_sizes(head_size: int, threads: int, tmp_path: Path) -> None:
    check(Probe(llama(64, head_size), tmp_path, CompileOptions(isq=Isq("int4-64")), threads))


@pytest.mark.parametrize(
    ("kind", "multiple"),
    [
        *((kind, 1) for kind in ("Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "int4-16", "int4-32")),
        *(("int4-128", 2), ("int4-256", 2), ("int8-64", 1)),
    ],
)
def test_formats(kind: str, multiple: int, tmp_path: Path) -> None:
    probe = Probe(llama(256, 64), tmp_path, CompileOptions(isq=Isq(kind)))
    assert probe.manifest.row_multiple == multiple
    check(probe)


@pytest.mark.parametrize(
    ("head_size", "options", "reason"),
    [
        (64, CompileOptions(accuracy="float32"), "no, because float kernels"),
        (192, CompileOptions(), "no, because attention over heads of 192"),
    ],
)
def test_packages_that_say_no(head_size: int, options: CompileOptions, reason: str, tmp_path: Path) -> None:
    assert Probe(llama(64, head_size), tmp_path, options).manifest.invariant.startswith(reason)
