"""Whole compiles: what lands in the folder, what never does, and what a bad checkpoint or place gets."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mistralrs_onnx.compiler.compile import CompileOptions, Progress, compile_gguf
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import MANIFEST, PORTABLE_GRAPH, WEIGHTS, Manifest
from mistralrs_onnx.runtime.package import Package

FILES = {
    "model.onnx",
    "engine.onnx",
    "engine-kv-float16.onnx",
    "engine-lora.onnx",
    "engine-lora-kv-float16.onnx",
    "engine-cuda.onnx",
    "slots-cuda.onnx",
    "model.onnx.data",
    "genai_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "manifest.json",
}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_package_has_its_files_and_says_so(smollm2: Package) -> None:
    assert {path.name for path in smollm2.path.iterdir()} == FILES
    assert set(smollm2.manifest.files) == FILES - {MANIFEST}
    assert (smollm2.manifest.kv.num_layers, smollm2.manifest.kv.num_heads, smollm2.manifest.kv.head_size) == (30, 3, 64)
    assert smollm2.manifest.eos_token_ids == (2,)


def test_the_weight_file_is_no_larger_than_the_tensors_and_two_percent(smollm2: Package, smollm2_gguf: Path) -> None:
    source = sum(int(t.n_bytes) for t in gguf.GGUFReader(smollm2_gguf).tensors)
    assert smollm2.manifest.files[WEIGHTS].size <= 1.02 * source


def test_a_tied_head_shares_its_bytes_with_the_embedding(smollm2: Package) -> None:
    graph = onnx.load(smollm2.path / "engine.onnx", load_external_data=False).graph
    users = [node.op_type for node in graph.node if "model.embed_tokens.q" in node.input]
    assert users == ["Q8_0Embedding", "Q8_0Linear"]


def test_projections_of_one_input_are_one_node(smollm2: Package) -> None:
    graph = onnx.load(smollm2.path / "engine.onnx", load_external_data=False).graph
    linears = [node.op_type for node in graph.node if node.op_type.endswith("Linear")]
    assert linears == ["Q4_1Linear"] * 4 * 30 + ["Q8_0Linear"]


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path, tiny_llama) -> None:
    source = tiny_llama(tmp_path / "tiny.gguf", {"attn_q": "Q4_1"}).write()
    assert tree(compile_gguf(source, tmp_path / "a")) == tree(compile_gguf(source, tmp_path / "b"))


@pytest.mark.parametrize("expand", [False, True], ids=["functions", "expanded"])
def test_graphs_pass_the_onnx_checker(tmp_path: Path, expand: bool, tiny_llama) -> None:
    source = tiny_llama(tmp_path / "tiny.gguf", {"attn_output": "Q4_0", "ffn_up": "F16"}).write()
    out = compile_gguf(source, tmp_path / "out", CompileOptions(expand=expand))
    for name in ("model.onnx", "engine.onnx", "engine-kv-float16.onnx", "engine-cuda.onnx"):
        onnx.checker.check_model(str(out / name))
        model = onnx.load(out / name, load_external_data=False)
        domains = {node.domain for node in model.graph.node}
        assert domains == ({"", "com.microsoft"} if expand else {"", "com.microsoft", "mistralrs"})
        assert bool(model.functions) != expand


def test_weights_lie_on_their_boundaries_and_nowhere_twice(smollm2: Package) -> None:
    spans: set[tuple[int, int]] = set()
    for name in smollm2.manifest.engines.values():
        for value in ir.load(smollm2.path / name).graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                tensor = value.const_value
                assert tensor.offset % (4096 if tensor.length >= 1 << 20 else 64) == 0
                spans.add((tensor.offset, tensor.offset + tensor.length))
    ends = sorted(spans)
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    assert ends[-1][1] == (smollm2.path / WEIGHTS).stat().st_size


def test_progress_reaches_the_whole(tmp_path: Path, tiny_llama) -> None:
    seen: list[Progress] = []
    compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "out", report=seen.append)
    assert list(dict.fromkeys(p.stage for p in seen)) == ["read", "tokenizer", "draw", "write", "hash"]
    written = [p for p in seen if p.stage == "write"]
    assert written[-1].done == written[-1].total > 0


def test_an_existing_place_is_replaced_only_by_force_and_only_if_a_package(tmp_path: Path, tiny_llama) -> None:
    source, out = tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "out"
    compile_gguf(source, out)
    with pytest.raises(CompileError, match="--force"):
        compile_gguf(source, out)
    compile_gguf(source, out, force=True)
    other = tmp_path / "holiday-photos"
    other.mkdir()
    (other / "beach.png").write_bytes(b"")
    with pytest.raises(CompileError, match="not a package"):
        compile_gguf(source, other, force=True)
    assert (other / "beach.png").exists()


def test_a_failed_compile_leaves_nothing_behind(tmp_path: Path, tiny_llama) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    tiny.extra = {"blk.0.attn_sinks": np.zeros(4, np.float32)}
    with pytest.raises(CompileError, match=r"blk\.0\.attn_sinks\.weight is not part of this architecture"):
        compile_gguf(tiny.write(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, tiny_llama) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CompileError, match="cannot write"):
        compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "file" / "out")


def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, tiny_llama) -> None:
    tiny = tiny_llama(tmp_path / "scaled.gguf")
    tiny.rope_scaling = "dynamic"
    with pytest.raises(CompileError, match=r"RoPE scaling 'dynamic' is not supported: known are default"):
        compile_gguf(tiny.write(), tmp_path / "out")


def test_a_tensor_of_the_wrong_shape_is_named(tmp_path: Path, tiny_llama) -> None:
    class Wide(tiny_llama):
        def shapes(self) -> dict[str, tuple[int, ...]]:
            return super().shapes() | {"blk.1.ffn_up": (100, 64)}

    with pytest.raises(CompileError, match=r"blk\.1\.ffn_up\.weight has shape \(100, 64\), .* needs \(96, 64\)"):
        compile_gguf(Wide(tmp_path / "tiny.gguf").write(), tmp_path / "out")


def test_a_missing_tensor_is_named(tmp_path: Path, tiny_llama) -> None:
    class Headless(tiny_llama):
        def shapes(self) -> dict[str, tuple[int, ...]]:
            return {name: shape for name, shape in super().shapes().items() if name != "blk.0.attn_k"}

    with pytest.raises(CompileError, match=r"no tensor for model\.layers\.0\.self_attn\.k_proj"):
        compile_gguf(Headless(tmp_path / "tiny.gguf").write(), tmp_path / "out")


def test_manifests_survive_their_file(smollm2: Package) -> None:
    text = (smollm2.path / MANIFEST).read_text()
    assert Manifest.from_json(text) == smollm2.manifest
    with pytest.raises(ValueError, match="of schema 99"):
        Manifest.from_json(json.dumps(json.loads(text) | {"schema": 99}))
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.from_json("[]")


def test_host_configs_hold_what_those_programs_need(smollm2: Package) -> None:
    genai = json.loads((smollm2.path / "genai_config.json").read_text())["model"]
    assert (genai["type"], genai["vocab_size"], genai["context_length"]) == ("llama", 49152, 8192)
    assert genai["decoder"]["filename"] == PORTABLE_GRAPH
    config = json.loads((smollm2.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_key_value_heads"], config["head_dim"], config["tie_word_embeddings"]) == (3, 64, True)
