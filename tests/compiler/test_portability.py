"""`model.onnx` in programs that know nothing of us: plain onnxruntime at every level, onnxruntime-genai."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import Package, open_package

ROOT = Path(__file__).parent.parent.parent
QUESTION = "Why is the sky blue?"


def prompt_ids(package: Package) -> list[int]:
    source = package.chat_template()
    assert source is not None
    prompt = ChatTemplate(source).render([{"role": "user", "content": QUESTION}])
    return package.tokenizer().encode(prompt, add_special_tokens=False).ids


def plain_session(package: Package, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.__members__[f"ORT_{level}"]
    return onnxruntime.InferenceSession(package.path / "model.onnx", options, providers=["CPUExecutionProvider"])


def empty_past(package: Package) -> dict[str, NDArray[np.float32]]:
    kv = package.manifest.kv
    empty = np.zeros((1, kv.num_heads, 0, kv.head_size), np.float32)
    return {f"past_key_values.{i}.{part}": empty for i in range(kv.num_layers) for part in ("key", "value")}


def plain_logits(package: Package, ids: list[int], level: str) -> NDArray[np.float32]:
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
    }
    return plain_session(package, level).run(["logits"], feeds | empty_past(package))[0][0]


def mean_kl(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    p, q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (expected, got)
    )
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.fixture(scope="module")
def ids(smollm2: Package) -> list[int]:
    return prompt_ids(smollm2)


@pytest.fixture(scope="module")
def engine_logits(smollm2_runner, ids: list[int]) -> NDArray[np.float32]:
    """On stock operators, which these programs have."""
    return smollm2_runner(kernels="stock").run([Row(0, 0, ids, len(ids))]).copy()


@pytest.mark.parametrize("level", ["ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_plain_onnxruntime_gives_the_engines_logits(
    smollm2: Package, ids: list[int], engine_logits: NDArray[np.float32], level: str
) -> None:
    """Where the same kernels run, the same bits; at BASIC norms sum in another order, which int8 activations amplify to
    about what they themselves cost (0.007 nats on this prompt)."""
    got = plain_logits(smollm2, ids, level)
    if level == "ENABLE_BASIC":
        print("mean KL to the engine:", mean_kl(engine_logits, got))
        assert mean_kl(engine_logits, got) <= 0.02
    else:
        np.testing.assert_array_equal(got, engine_logits)


def test_kernels_of_our_own_differ_as_much_as_rounding_does(
    smollm2_runner, ids: list[int], engine_logits: NDArray[np.float32]
) -> None:
    """They add in another order, which int8 activations amplify to about what they themselves cost."""
    got = smollm2_runner().run([Row(0, 0, ids, len(ids))])
    print("mean KL, stock operators to our kernels:", mean_kl(engine_logits, got))
    assert mean_kl(engine_logits, got) <= 0.02


def test_without_folding_packed_linears_return_zeros(smollm2: Package, ids: list[int]) -> None:
    """Why our sessions never lower the level, and probe a token after loading."""
    assert not plain_logits(smollm2, ids, "DISABLE_ALL").any()


def test_expanded_graphs_need_no_folding(
    smollm2_gguf: Path, tmp_path: Path, ids: list[int], engine_logits: NDArray[np.float32]
) -> None:
    package = open_package(compile_gguf(smollm2_gguf, tmp_path / "expanded", CompileOptions(expand=True)))
    assert mean_kl(engine_logits, plain_logits(package, ids, "DISABLE_ALL")) <= 0.02
    np.testing.assert_array_equal(plain_logits(package, ids, "ENABLE_ALL"), engine_logits)


def test_a_batch_of_prompts_and_a_step_after_them(tiny_llama, tmp_path: Path) -> None:
    """The dense cache takes several rows, and present goes in again as past."""
    package = open_package(compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "out"))
    session = plain_session(package, "ENABLE_ALL")
    prompts = np.array([[5, 6, 7, 8], [9, 8, 7, 6]])
    past = {name: np.repeat(value, 2, axis=0) for name, value in empty_past(package).items()}
    feeds = {
        "input_ids": prompts,
        "attention_mask": np.ones_like(prompts),
        "position_ids": np.tile(np.arange(4), (2, 1)),
    }
    logits, *present = session.run(None, feeds | past)
    step = {
        "input_ids": np.array([[3], [4]]),
        "attention_mask": np.ones((2, 5), np.int64),
        "position_ids": np.array([[4], [4]]),
    }
    after = session.run(None, step | dict(zip(past, present, strict=True)))[0]
    assert (logits.shape, after.shape) == ((2, 4, 98), (2, 1, 98))
    for row, (prompt, token) in enumerate(zip(prompts.tolist(), (3, 4), strict=True)):
        whole = plain_logits(package, [*prompt, token], "ENABLE_ALL")
        np.testing.assert_allclose(logits[row], whole[:4], atol=1e-4)
        np.testing.assert_allclose(after[row, 0], whole[4], atol=1e-4)


def test_the_example_answers(smollm2: Package) -> None:
    """The package's own tokenizer and template, nothing of ours imported."""
    script = ROOT / "examples" / "plain_onnxruntime.py"
    assert "mistralrs" not in script.read_text().replace("mistralrs-onnx is imported", "")
    made = subprocess.run([sys.executable, script, smollm2.path, QUESTION], capture_output=True, text=True, check=True)
    # Near ties are decided otherwise on other CPUs, so that only what any good answer says can be asked for.
    assert "light" in made.stdout
    assert len(made.stdout.split()) > 20


@pytest.mark.oracle
def test_onnxruntime_genai_runs_the_package(
    smollm2: Package, ids: list[int], engine_logits: NDArray[np.float32]
) -> None:
    """Its tokenizer and template agree, its prompt logits are the engine's, its greedy text parts only at near ties."""
    og = pytest.importorskip("onnxruntime_genai")
    model = og.Model(str(smollm2.path))
    tokenizer = og.Tokenizer(model)
    message = f'[{{"role": "user", "content": "{QUESTION}"}}]'
    assert list(tokenizer.encode(tokenizer.apply_chat_template(message, add_generation_prompt=True))) == ids
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + 65, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    prompt_logits = np.array(generator.get_output("logits"))[0]
    print("largest difference to the engine's prompt logits:", np.abs(prompt_logits - engine_logits).max())
    assert mean_kl(engine_logits, prompt_logits) <= 0.02
    for _ in range(64):
        generator.generate_next_token()
    theirs = [int(token) for token in generator.get_sequence(0)]
    logits = plain_logits(smollm2, theirs, "ENABLE_ALL")[len(ids) - 1 : -1]
    best = logits.argmax(-1)
    for row, token, ours in zip(logits, theirs[len(ids) :], best, strict=True):
        if token != ours:
            gap = float(row[ours] - row[token])
            print("parts from the engine at a gap of", gap)
            assert gap < 2.0  # the noise of int8 activations in a logit of this model
