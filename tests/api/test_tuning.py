"""Figures of quantizations are those of real compiles, and recommendations follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from golden import read_golden
from tiny_models import write_folder

from mistralrs_onnx.compiler.checkpoint import Checkpoint, Reading, open_folder, open_gguf
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import Rule, parse_type
from mistralrs_onnx.diagnosing.package_trial import serving_memory
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.tuning import CHOICES, CONTEXT, OURS, Candidate, Tuning, Wish, expert_shares, tune

GiB = 1 << 30
WISH = Wish(memory=GiB)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("checkpoints")
    return {name: write_folder(read_golden()[name].model, base / name) for name in ("llama", "qwen3-moe", "gemma3")}


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path]) -> Iterator[Checkpoint]:
    with open_folder(folders["llama"], Reading()) as checkpoint:
        yield checkpoint


def by_name(tuning: Tuning) -> dict[str, Candidate]:
    return {each.name: each for each in tuning.candidates}


@pytest.mark.parametrize(
    ("name", "isq"),
    [
        *(("llama", isq) for isq in (None, "Q8_0", "Q5K", "Q4K", "Q4_0", "Q2K", "int4-32")),
        *(("qwen3-moe", isq) for isq in (None, "Q4K")),
        ("gemma3", "Q3K"),  # tied
    ],
)
def test_sizes_are_those_of_real_compiles(folders: dict[str, Path], name: str, isq: str | None, tmp_path: Path) -> None:
    """Within 1 %: what is more is the space before tensors that start on a page or a line."""
    with open_folder(folders[name], Reading()) as checkpoint:
        candidate = by_name(tune(checkpoint, CompileOptions(), WISH))[isq or "as it is"]
    options = CompileOptions(isq=Isq(None if isq is None else parse_type(isq)))
    package = open_package(compile_folder(folders[name], tmp_path / "package", options))
    assert candidate.size == pytest.approx((package.path / "model.onnx.data").stat().st_size, rel=0.01)
    assert candidate.weights_memory == serving_memory(package.manifest)
    matrices = {record.type for record in package.manifest.tensors.values() if len(record.shape) == 2}
    assert set(candidate.types) == matrices


def test_all_choices_are_compared(llama: Checkpoint) -> None:
    tuning = tune(llama, CompileOptions(), WISH)
    assert list(by_name(tuning)) == ["as it is", *CHOICES]
    assert (tuning.architecture, tuning.context_length, tuning.limit, tuning.wanted) == ("llama", 256, 256, 256)
    assert tuning.quantized == ()
    assert {each.status for each in tuning.candidates} == {"fits"}
    assert by_name(tuning)["as it is"].error == 0 < by_name(tuning)["Q8_0"].error < by_name(tuning)["Q4_0"].error


def test_a_type_that_is_asked_for_is_one_more(llama: Checkpoint) -> None:
    assert "Q4_1" in by_name(tune(llama, CompileOptions(isq=Isq("Q4_1")), WISH))
    assert len(tune(llama, CompileOptions(isq=Isq("Q4_K")), WISH).candidates) == 1 + len(CHOICES)


def test_rules_hold_for_every_choice(llama: Checkpoint) -> None:
    """Embedding and head are promoted to Q5_0, and the rule keeps all others."""
    options = CompileOptions(isq=Isq(rules=(Rule("model.layers.*", "none"),)))
    assert by_name(tune(llama, options, WISH))["Q4_0"].types == ("F32", "Q5_0")


def test_a_quantized_checkpoint_keeps_its_types(tiny_llama, tmp_path: Path) -> None:
    file = tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q8_0", "attn_q": "Q4_0"}).write()
    with open_gguf(file, Reading()) as checkpoint:
        kept = tune(checkpoint, CompileOptions(), WISH)
        again = tune(checkpoint, CompileOptions(isq=Isq(requantize=True)), WISH)
    assert (kept.quantized, list(by_name(kept))) == (("Q4_0", "Q8_0"), ["as it is"])
    assert (again.quantized, len(again.candidates)) == ((), 1 + len(CHOICES))
    size = (compile_gguf(file, tmp_path / "package") / "model.onnx.data").stat().st_size
    assert kept.candidates[0].size == pytest.approx(size, rel=0.01)


def test_room_is_what_is_left_of_nine_tenths_of_the_memory(llama: Checkpoint) -> None:
    """3 layers of 2 heads of 16 elements, keys and values, in float32: 768 bytes a token."""
    weights = tune(llama, CompileOptions(), WISH).candidates[0].weights_memory
    memory = int((weights + 100 * 768 * 2 + 700) / OURS)
    found = tune(llama, CompileOptions(), Wish(memory, max_seqs=2)).candidates[0]
    assert (found.room, found.needed, found.status) == (100, weights + 2 * 256 * 768, "short")
    assert tune(llama, CompileOptions(), Wish(memory, 2, kv_dtype="float16")).candidates[0].room == 200
    shorter = tune(llama, CompileOptions(), Wish(memory, 2, max_model_len=50)).candidates[0]
    assert (shorter.room, shorter.needed, shorter.status) == (50, weights + 2 * 50 * 768, "fits")
    assert tune(llama, CompileOptions(), Wish(weights)).candidates[0].status == "no"


def test_a_token_reads_some_of_the_experts(folders: dict[str, Path]) -> None:
    """2 of 4 experts; a table that is only looked up costs nothing."""
    with open_folder(folders["qwen3-moe"], Reading()) as checkpoint:
        assert expert_shares(checkpoint) == {f"model.layers.{i}.": 0.5 for i in range(3)}
        found = tune(checkpoint, CompileOptions(), WISH).candidates[0]
        shapes = checkpoint.arch.decoder(checkpoint.config, lambda name: True).shapes()
    matrices = {name: shape[0] * shape[1] for name, shape in shapes.items() if len(shape) == 2}
    experts = sum(count for name, count in matrices.items() if ".experts." in name)
    read = sum(matrices.values()) - matrices["model.embed_tokens.weight"] - experts // 2
    assert found.read == 4 * read


def candidate(name: str, error: float, read: int, room: int = CONTEXT, status: str = "fits") -> Candidate:
    return Candidate(name, name, 0, 0, 0, room, error, read, status, ())


MANY = (
    candidate("whole", 0.0, 400),
    candidate("eight", 0.01, 130),
    candidate("four", 0.07, 90),
    candidate("other", 0.08, 80),
    candidate("fewest", 0.09, 80),
)


def of(*candidates: Candidate) -> Tuning:
    return Tuning("x", "llama", 1, 8192, 8192, CONTEXT, 1, (), candidates)


@pytest.mark.parametrize(("profile", "name"), [("quality", "whole"), ("balanced", "four"), ("fast", "other")])
def test_recommendations(profile, name: str) -> None:
    assert of(*MANY).recommended(profile).name == name


def test_what_has_too_little_room_is_not_recommended() -> None:
    short = [each._replace(status="short", room=100) for each in MANY[:2]]
    assert of(*short, *MANY[2:]).recommended("quality").name == "four"


def test_where_nothing_fits_the_most_room_decides() -> None:
    short = [each._replace(status="short", room=room) for each, room in zip(MANY, (1, 5, 9, 9, 0), strict=True)]
    assert of(*short).recommended("quality").name == "four"
    assert of(*(each._replace(status="no", room=0) for each in MANY)).recommended("fast") is None


def test_equal_errors_are_told_apart_by_what_is_read() -> None:
    twin = replace(of(*MANY), candidates=(candidate("slow", 0.0, 500), MANY[0]))
    assert twin.recommended("quality").name == "whole"
