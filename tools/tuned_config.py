"""What serves a model as it was tuned: a command line, and a file for --config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.tuning import Candidate, Tuning, Wish
from mistralrs_onnx.which import Chosen

Keys = Mapping[str, str | int | bool | tuple[str, ...] | None]  # None: not said
SECRET = "literal:"


def serving_keys(tuning: Tuning, best: Candidate, wish: Wish, max_seqs: int | None) -> Keys:
    """Options of a server that keep what was promised, as far as its defaults do not. `max_seqs`: as it was said."""
    promised = wish.max_seqs * best.room * tuning.token_bytes
    left = wish.memory - best.weights_memory
    return {
        "isq": best.isq,
        "max_seqs": max_seqs,
        "max_model_len": best.room if best.room < tuning.context_length else None,
        "kv_mem": promised if promised > left // 2 else None,  # servers take half by themselves
        "kv_dtype": wish.kv_dtype if wish.kv_dtype != "float32" else None,
    }


def said_keys(values: Mapping[str, Any]) -> Keys:
    """What was said before the subcommand, of any model. A token that was given itself is left out."""
    source = values["token_source"]
    return {
        "isq_map": _absolute(values["isq_map"]),
        "requantize": values["requantize"] or None,
        "offline": values["offline"] or None,
        "token_source": None if source == "cache" or source.startswith(SECRET) else source,
    }


def command_line(chosen: Chosen, serving: Keys) -> str:
    """Long names of options are the keys of files, with dashes."""
    keys = {**model_keys(chosen), **_unsaid(chosen)}
    return shlex.join(["mistralrs-server", *_options(serving), subcommand(chosen.source), *_options(keys)])


def config_text(chosen: Chosen, serving: Keys) -> str:
    """Paths in it are absolute. Raises UsageError for what such a file cannot say."""
    if wrong := [f"--{key.replace('_', '-')}" for key, value in _unsaid(chosen).items() if value is not None]:
        raise click.UsageError(f"a file for --config cannot say {', '.join(wrong)}: leave --emit-config out")
    keys = dict(model_keys(chosen))
    shared = {"tokenizer_json": keys.pop("tokenizer_json", None)}
    top, table = [*_lines(serving), *_lines(shared)], _lines({"kind": subcommand(chosen.source), **keys})
    return "\n".join(["# mistralrs-server --config FILE", *top, "", "[model]", *table, ""])


def subcommand(source: ModelSource) -> str:
    family = "lora" if source.adapters is not None else "x-lora" if source.xlora is not None else None
    if family is None:
        return source.kind
    return family if source.kind == "plain" else f"{family}-{source.kind}"


def model_keys(chosen: Chosen) -> Keys:
    """Keys of [model], which are the names of options too."""
    source, options = chosen
    is_plain = source.kind == "plain"
    return {
        "model_id" if is_plain else "quantized_model_id": _place(source.model),
        "quantized_filename": source.filename,
        "tokenizer_json" if is_plain else "tok_model_id": source.tokenizer and _place(source.tokenizer),
        "arch": options.reading.arch if is_plain else None,
        "gqa": options.reading.gqa if options.reading.gqa > 1 else None,
        "dtype": options.dtype if options.dtype != "auto" else None,
        "revision": source.revision,
        **_adapter_keys(source),
    }


def _adapter_keys(source: ModelSource) -> Keys:
    if source.adapters is not None:
        return {"adapters_model_id": _place(source.adapters.model), "order": _absolute(source.adapters.order)}
    if source.xlora is not None:
        return {"xlora_model_id": _place(source.xlora.model), "order": _absolute(source.xlora.order)}
    return {}


def _unsaid(chosen: Chosen) -> Keys:
    """What only a command line can say."""
    source, options = chosen
    is_alone = source.xlora is None or not source.xlora.adapters
    return {
        "pre": options.reading.pre,
        "merge_dtype": options.merge_dtype,
        "arch": None if source.kind == "plain" else options.reading.arch,
        "adapter": None if is_alone else tuple(_elsewhere(source)),
    }


def _elsewhere(source: ModelSource) -> Iterator[str]:
    assert source.xlora is not None
    yield from (f"{name}={path.resolve()}" for name, path in source.xlora.adapters.items())


def _place(model: str) -> str:
    """What lies on this machine is found from any working directory."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _options(keys: Keys) -> Iterator[str]:
    for key, value in keys.items():
        option = f"--{key.replace('_', '-')}"
        match value:
            case None:
                pass
            case True:
                yield option
            case tuple():
                yield from (word for each in value for word in (option, each))
            case _:
                yield from (option, str(value))


def _lines(keys: Keys) -> list[str]:
    said = {key: value for key, value in keys.items() if value is not None}
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]
