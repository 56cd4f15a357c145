"""A checkpoint quantized to another type than before, compiled and loaded."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.progress import Report, quiet

from .adapters import Adapters
from .caching.cache import cached_package
from .model import LoadOptions, Model, load
from .sources.source import ModelSource


def re_isq(
    kind: str,
    source: ModelSource,
    options: CompileOptions = CompileOptions(),
    loading: LoadOptions | None = None,
    report: Report = quiet,
    adapters: Adapters | None = None,
) -> Model:
    """The model with weights of type `kind` (`Q4K`, `8`, `int4`), and in all else as `options` and `loading` say.

    `adapters`: those of the model before, which go on as they are. A model that was loaded before is left alone: close
    it when it is no longer used. Raises CompileError for an unknown type and for a checkpoint that is quantized
    already, PackageError.
    """
    isq = replace(options.isq, type=parse_type(kind))
    return load(cached_package(source, replace(options, isq=isq), report), loading or LoadOptions(), adapters)
