"""Adapters beside the model against PEFT: a prompt and eight decode steps, with the base model in the same steps."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from peft_oracles import KINDS, NAMES, WEIGHTS, Kind, answer, attach, attach_several, check, load
from tiny_adapters import linears, write_adapter
from tiny_models import IDS, PROMPT, TOLERANCE, write_folder

from mistralrs_onnx.adapters import AdapterOptions, Adapters
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

pytestmark = pytest.mark.oracle


class Served:
    """One tiny model in float32, with a graph that takes adapters; transformers' answer without any."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = write_folder(read_golden()[name].model, folder / "model")
        options = CompileOptions(accuracy="float32")
        package = open_package(compile_folder(self.folder, folder / "package", options))
        self.manifest = package.manifest
        self._session = make_session(package.engine("float32", takes_adapters=True), 1)

    @cached_property
    def base(self) -> np.ndarray:
        return answer(load(self.folder))

    def logits(self, adapter: Adapter) -> np.ndarray:
        """Of all positions with the adapter; the base runs beside it, and must be what it is."""
        lanes = Lanes(self.manifest.lora, 2)
        runner = OrtRunner(self._session, self.manifest, num_slots=2, max_model_len=64, max_chunk=64, extra=lanes)
        steps = [(0, IDS[:PROMPT]), *((i, [IDS[i]]) for i in range(PROMPT, len(IDS)))]
        parts = []
        for start, ids in steps:
            rows = [Row(slot, start, ids, len(ids), adapter=each) for slot, each in enumerate((adapter, None))]
            parts.append(runner.run(rows).copy().reshape(2, len(ids), -1))
        adapted, base = np.concatenate(parts, axis=1)
        assert np.abs(base - self.base).max() <= TOLERANCE * np.abs(self.base).max()
        return adapted

    def read(self, *folders: Path) -> Adapters:
        return Adapters(self.manifest, AdapterOptions({folder.name: folder for folder in folders}))


class Models:
    """Each compiled once."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._served: dict[str, Served] = {}

    def __getitem__(self, name: str) -> Served:
        if name not in self._served:
            self._served[name] = Served(name, self._factory.mktemp(name))
        return self._served[name]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory)


def only(adapters: Adapters) -> Adapter:
    (adapter,) = adapters.loaded()
    return adapter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_adapter(name: str, kind: str, models: Models, tmp_path: Path) -> None:
    served = models[name]
    model = attach(load(served.folder), KINDS[kind], "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    check(served.logits(only(served.read(tmp_path / "adapter"))), answer(model), served.base)


@pytest.mark.parametrize("rank", [16, 17, 40])
@pytest.mark.parametrize("name", ["llama", "phi2"])
def test_ranks_of_one_block_and_more(name: str, rank: int, models: Models, tmp_path: Path) -> None:
    served = models[name]
    model = attach(load(served.folder), Kind(rank, rank / 4), "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    check(served.logits(only(served.read(tmp_path / "adapter"))), answer(model), served.base)


@pytest.mark.parametrize("name", NAMES)
def test_several_adapters_with_weights(name: str, models: Models, tmp_path: Path) -> None:
    served = models[name]
    model = attach_several(load(served.folder), tmp_path)
    adapters = served.read(*(tmp_path / each for each in WEIGHTS))
    adapter = adapters.select([Part(each, weight) for each, weight in WEIGHTS.items()])
    assert adapter is not None
    check(served.logits(adapter), answer(model), served.base)


PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight")


@pytest.mark.parametrize("chosen", [PARAMETERS, PARAMETERS[:1], PARAMETERS[1:2]], ids=lambda chosen: str(len(chosen)))
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe", "gpt-oss"])
def test_experts_that_are_one_parameter(name: str, chosen: tuple[str, ...], models: Models, tmp_path: Path) -> None:
    served = models[name]
    router = "mlp.router.weight" if name == "gpt-oss" else "mlp.gate.weight"
    targets = [router if each == "mlp.gate.weight" else each for each in chosen]
    config = {"target_parameters": targets, "target_modules": ["q_proj"], "rank_pattern": {".*experts.down_proj": 2}}
    model = attach(load(served.folder), Kind(config=config), "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    check(served.logits(only(served.read(tmp_path / "adapter"))), answer(model), served.base)


def test_experts_that_are_modules(models: Models, tmp_path: Path) -> None:
    """As Mixtral's were when most of its adapters were trained; PEFT converts them."""
    from peft import PeftModel

    served = models["mixtral"]
    shapes = linears(read_golden()["mixtral"].model.shapes)
    targets = sorted({each.rpartition(".")[2] for each in shapes})
    adapter = write_adapter(tmp_path / "adapter", shapes, target_modules=targets)
    expected = answer(PeftModel.from_pretrained(load(served.folder), adapter).eval())
    check(served.logits(only(served.read(adapter))), expected, served.base)
