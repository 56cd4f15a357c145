"""`compile`: a checkpoint becomes a package, in one call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type, read_isq_map
from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.compiler.templates.find import find_template

from .sources.adapter_source import AdapterSource
from .sources.finding import find_source, is_package
from .sources.source import ModelSource
from .sources.xlora_source import XLoraSource

Place = str | Path


def compile(  # noqa: A001 the name of what this library does
    model: Place,
    out: Place,
    *,
    filename: str | None = None,
    isq: str | None = None,
    block_size: int | None = None,
    isq_map: Place | None = None,
    requantize: bool = False,
    dtype: str = "auto",
    accuracy: str = "int8",
    expand: bool = False,
    arch: str | None = None,
    tokenizer: Place | None = None,
    pre: str | None = None,
    chat_template: str | None = None,
    gqa: int = 1,
    lora: Place | None = None,
    xlora: Place | None = None,
    order: Place | None = None,
    merge_dtype: str | None = None,
    emit_onnx_adapter: bool = False,
    revision: str | None = None,
    token_source: str = "cache",
    offline: bool = False,
    force: bool = False,
    report: Report = quiet,
) -> Path:
    """Compiles a checkpoint into the package folder `out`, which is returned. Raises CompileError.

    Args:
        model: A GGUF or GGML file, a folder of safetensors, the name of a repository of the hub, or "demo".
        out: The folder of the package. `force` replaces an earlier one.
        filename: The GGUF or GGML file inside the folder or repository `model`.
        isq: What to quantize weights to: "Q4K", "8", "int4" (with `block_size`), ...
        isq_map: A file that chooses types by names of weights.
        requantize: Quantize weights too that are quantized already, which adds one error to another.
        dtype: Of weights that are not quantized: "auto", "f32", "f16" or "bf16".
        accuracy: What activations become inside quantized matmuls: "int8" or "float32".
        expand: Write stock operators only, for hosts that fold no constants.
        arch: The architecture, where the checkpoint is not to be believed.
        tokenizer: A tokenizer.json, a folder or a repository whose tokenizer is taken instead.
        pre: The name of the pre-tokenizer of a GGUF file.
        chat_template: The name of a built-in template, a .jinja file, or a .json file that has one.
        gqa: Query heads that share a key head, which GGML files do not say.
        lora: An adapter to merge into the model, a folder as PEFT saves it or a repository; with the ordering file
            `order`, those of its adapters that the file names. `merge_dtype`: of the weights that they change.
        xlora: An X-LoRA to make a part of the model, with its ordering file as `order`.
        emit_onnx_adapter: Merge none of `lora`: write files that ONNX Runtime applies to `model.onnx`.
        revision: Of the repository `model`.
        token_source: Where the hub's token is: "cache", "env:NAME", "path:FILE", "literal:TOKEN" or "none".
        offline: Take only what is on this machine.
        report: Is told of progress: stage, and bytes done and in total.
    """
    if is_package(model):
        raise CompileError(f"{model} is a package already: name the checkpoint that it was made from")
    rules = () if isq_map is None else read_isq_map(Path(isq_map).expanduser())
    reading = Reading(arch=arch, pre=pre, chat_template=chat_template and find_template(chat_template), gqa=gqa)
    options = CompileOptions(
        accuracy=accuracy,
        expand=expand,
        dtype=dtype,
        isq=Isq(None if isq is None else parse_type(isq, block_size), rules, requantize=requantize),
        reading=reading,
        merge_dtype=merge_dtype,
    )
    if isq is None and block_size is not None:
        raise CompileError(f"block_size {block_size} is of isq int4 and int8: give isq too, or leave it out")
    if emit_onnx_adapter and lora is None:
        raise CompileError("emit_onnx_adapter writes the adapters of lora: give lora too, or leave it out")
    source = replace(
        _adapted(find_source(model, filename), lora, xlora, order),
        tokenizer=None if tokenizer is None else str(tokenizer),
        revision=revision,
        token_source=parse_token_source(token_source),
        offline=offline,
        emit=emit_onnx_adapter,
    )
    located = source.locate(options, report).with_packaged()
    return located.compile(Path(out).expanduser(), force=force, report=report)


def _adapted(source: ModelSource, lora: Place | None, xlora: Place | None, order: Place | None) -> ModelSource:
    if lora is not None and xlora is not None:
        raise CompileError("lora and xlora cannot be in one package: leave one of them out")
    ordering = None if order is None else Path(order).expanduser()
    if lora is not None:
        return replace(source, adapters=AdapterSource(str(lora), ordering))
    if xlora is not None:
        return replace(source, xlora=XLoraSource(str(xlora), ordering))
    if order is not None:
        raise CompileError(f"the ordering file {order} is of adapters: give lora or xlora too, or leave it out")
    return source
