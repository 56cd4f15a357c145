"""A package tried on this machine: is it whole, does it fit, does it load, and how much context is there room for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter

from mistralrs_onnx.compiler.estimate import Role, TensorPlan, estimate
from mistralrs_onnx.graphs.contract import KVDtype, Manifest, TensorRecord
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.memory import available_memory
from mistralrs_onnx.model import LoadOptions, make_runner, make_xlora_runner
from mistralrs_onnx.ops.formats import find_format
from mistralrs_onnx.runners import chosen_kernels
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import NEEDED, check_logits, is_invariant, settle_rows
from mistralrs_onnx.runtime.sessions import make_session

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Trial:
    """`opening`, `loading`: why that failed. `promised`: what the manifest says of invariance.

    `needed`: bytes of memory that a server is estimated to take, without keys and values; `available`: before it was
    loaded; `room`: bytes left after that. `token_bytes`: of keys and values of a token.
    """

    path: Path
    opening: str = ""
    loading: str = ""
    name: str = ""
    size: int = 0
    needed: int = 0
    available: int = 0
    room: int = 0
    token_bytes: int = 1
    context_length: int = 0
    promised: str = ""
    is_invariant: bool | None = None
    seconds: float = 0.0


def try_package(path: Path, kv_dtype: KVDtype = "float32") -> Trial:
    """Checks sha256 sums, and loads the package unless memory would not suffice."""
    try:
        package = open_package(path, verify=True)
    except PackageError as error:
        return Trial(path, opening=str(error))
    trial = _described(path, package, kv_dtype)
    return trial if trial.needed >= trial.available else _loaded(trial, package, kv_dtype)


def serving_memory(manifest: Manifest) -> int:
    """Bytes that a server is estimated to take, without keys and values."""
    return estimate(manifest, _plans(manifest), available=0).runtime_memory


def _described(path: Path, package: Package, kv_dtype: KVDtype) -> Trial:
    manifest = package.manifest
    num_caches = 1 if manifest.xlora is None else 2
    return Trial(
        path,
        name=manifest.name,
        size=sum(record.size for record in manifest.files.values()),
        needed=serving_memory(manifest),
        available=available_memory(),
        token_bytes=num_caches * manifest.kv.token_bytes(2 if kv_dtype == "float16" else 4),
        context_length=manifest.context_length,
        promised=manifest.invariant,
    )


def _loaded(trial: Trial, package: Package, kv_dtype: KVDtype) -> Trial:
    length = min(NEEDED, trial.context_length)
    small = EngineOptions(max_seqs=1, max_model_len=length, prefill_chunk=length)
    options, start = LoadOptions(engine=small, kv_dtype=kv_dtype), perf_counter()
    try:
        session = make_session(package.engine(kv_dtype), kernels=chosen_kernels(package, options))
        xlora = make_xlora_runner(package, options, session)
        runner = xlora or make_runner(package, options, session)
        check_logits(runner)
        settle_rows(runner)
        seconds = perf_counter() - start
        same = None if xlora is not None or length < NEEDED else is_invariant(runner)
    except PackageError as error:
        return replace(trial, loading=str(error))
    return replace(trial, seconds=seconds, is_invariant=same, room=available_memory())


def _plans(manifest: Manifest) -> Iterator[TensorPlan]:
    for name, record in manifest.tensors.items():
        size = _num_bytes(record)
        yield TensorPlan(name, record.type, record.type, record.shape, size, size, _role(name, manifest))


def _num_bytes(record: TensorRecord) -> int:
    if record.type in DENSE:
        return prod(record.shape) * DENSE[record.type].itemsize
    kind = find_format(record.type)
    return prod(record.shape) // kind.block_size * kind.type_size


def _role(name: str, manifest: Manifest) -> Role:
    if name != TABLE:
        return "matmul"
    return "gather" if HEAD in manifest.tensors else "both"
