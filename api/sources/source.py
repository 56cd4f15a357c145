"""Where a checkpoint is, on this machine or on the hub, and a package made of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.adapters.ordering import Ordering, check_identity
from mistralrs_onnx.compiler.checkpoint import Checkpoint, Reading, open_folder, open_ggml, open_gguf
from mistralrs_onnx.compiler.compile import CompileOptions, compile_checkpoint
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.onnx_adapters import ToEmit
from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.compiler.sources.locate import locate
from mistralrs_onnx.compiler.sources.token_source import CACHED, TokenSource
from mistralrs_onnx.compiler.sources.wanted import CHECKPOINT, TOKENIZER, Wanted, wanted_gguf

from .adapter_source import AdapterSource, Fetch, LocatedAdapters, locate_adapters
from .kinds import checkpoint_file, checkpoint_folder
from .onnx_adapters import export_adapter
from .xlora_source import XLoraSource, locate_xlora

Kind = Literal["plain", "gguf", "ggml"]
OPENERS: dict[Kind, Callable[[Path, Reading], AbstractContextManager[Checkpoint]]] = {
    "plain": open_folder,
    "gguf": open_gguf,
    "ggml": open_ggml,
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`model`: a path, or the name of a repository of the hub. `filename`: of GGUF and GGML files, inside it.

    `tokenizer`: a file, a folder or a repository whose tokenizer is taken instead. `revision`: of the repository.
    `adapters`: to merge into it or to load beside it; `emit`: neither, they become files in ONNX Runtime's format.
    `xlora`: to make a part of it.
    """

    kind: Kind
    model: str
    filename: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    token_source: TokenSource = CACHED
    offline: bool = False
    adapters: AdapterSource | None = None
    emit: bool = False
    xlora: XLoraSource | None = None

    def locate(self, options: CompileOptions, report: Report = quiet) -> Located:
        """Fetches what is not here. Raises CompileError."""
        ordering = self._ordering()
        self._check_base(ordering)
        reading = options.reading
        if self.tokenizer is not None:
            reading = replace(reading, tokenizer=self._locate(self.tokenizer, TOKENIZER, None, report))
        options = replace(options, reading=reading)
        if self.xlora is not None:
            options = replace(options, xlora=locate_xlora(self.xlora, ordering, self._fetch(report)))
        adapters = self._adapters(ordering, report)
        if self.emit:
            emitted = ToEmit((*adapters.merged, *adapters.loaded.values()), export_adapter)
            options, adapters = replace(options, emitted=emitted), LocatedAdapters()
        if options.merge_dtype is not None and not adapters.merged:
            raise CompileError(
                f"merge dtype {options.merge_dtype} is of merged adapters, and none is merged: leave it out"
            )
        options = replace(options, adapters=(*options.adapters, *map(ToMerge, adapters.merged)))
        return Located(self.kind, self._path(report), options, adapters)

    def _ordering(self) -> Ordering | None:
        adapters = self.adapters or self.xlora
        return None if adapters is None else adapters.read_order()

    def _check_base(self, ordering: Ordering | None) -> None:
        """A path of this machine may differ from what the ordering file calls its base, another repository not."""
        if ordering is not None and self.kind == "plain" and not Path(self.model).expanduser().exists():
            check_identity(ordering, self.model)

    def _path(self, report: Report) -> Path:
        if self.kind == "plain":
            return checkpoint_folder(self._locate(self.model, CHECKPOINT, self.revision, report))
        if self.filename is None:
            raise CompileError(f"{self.model}: a {self.kind} checkpoint needs the name of its file")
        return checkpoint_file(
            self._locate(self.model, wanted_gguf(self.filename), self.revision, report), self.filename
        )

    def _adapters(self, ordering: Ordering | None, report: Report) -> LocatedAdapters:
        if self.adapters is None:
            return LocatedAdapters()
        return locate_adapters(self.adapters, ordering, self._fetch(report))

    def _fetch(self, report: Report) -> Fetch:
        return lambda model, wanted: self._locate(model, wanted, None, report)

    def _locate(self, model: str, wanted: Wanted, revision: str | None, report: Report) -> Path:
        return locate(
            model,
            wanted=wanted,
            revision=revision,
            token_source=self.token_source,
            offline=self.offline,
            report=report,
        )


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint on this machine, with how it is to be compiled, and adapters to load beside the package."""

    kind: Kind
    path: Path
    options: CompileOptions
    adapters: LocatedAdapters = field(default_factory=LocatedAdapters)

    def with_packaged(self) -> Located:
        """So that the package carries the adapters that are to be loaded beside it."""
        packaged = tuple(self.adapters.loaded.values())
        return replace(self, options=replace(self.options, packaged=packaged, active=self.adapters.active))

    def open(self) -> AbstractContextManager[Checkpoint]:
        return OPENERS[self.kind](self.path, self.options.reading)

    def compile(self, out: Path, *, force: bool = False, report: Report = quiet) -> Path:
        """Raises CompileError."""
        return compile_checkpoint(self.open(), out, self.options, force=force, report=report)

    def files(self) -> list[Path]:
        """What the package is made from."""
        tokenizer = self.options.reading.tokenizer
        adapters = [file for each in self.options.adapters for file in (each.adapter.config, each.adapter.weights)]
        found = [path for each in (self.path, tokenizer, *adapters) if each is not None for path in _files(each)]
        return sorted(set(found))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CompileError(f"{path}: no such file or folder")
    return [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
