"""One question, one answer: text as it comes, or a JSON object at the end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from mistralrs_onnx.model import Model
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.outputs import outputs
from mistralrs_onnx.runtime.sampling import SamplingParams

from .answering import Answer, rate, recommended, select_adapter
from .screen import Screen, standard_output


@dataclass(frozen=True, slots=True)
class Asked:
    """`params`: fields of SamplingParams that were said. `is_raw`: continue the prompt as it is."""

    prompt: str
    system: str = ""
    is_raw: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    grammar: GrammarSpec | None = None
    adapters: Sequence[str] = ()


def drawn(model: Model, said: Mapping[str, Any]) -> SamplingParams:
    """With a seed, so that it can be told."""
    return SamplingParams(**{"seed": secrets.randbits(32), **recommended(model), **said})


def answer_once(model: Model, asked: Asked, *, as_json: bool, with_stats: bool, load_seconds: float) -> None:
    """Raises RequestError."""
    params = drawn(model, asked.params)
    grammar = None if asked.grammar is None else model.grammar(asked.grammar)
    source = outputs(model.engine, prompt_ids(model, asked), params, select_adapter(model, asked.adapters), grammar)
    answer, screen = Answer(), standard_output()
    try:
        answer.take(source, _unheard if as_json else screen.answer)
    finally:
        if screen.is_terminal and answer.text and not answer.text.endswith("\n") and not as_json:
            screen.write("\n")  # what is piped is the answer alone
    if as_json:
        _write_json(screen, model, params, answer, load_seconds)
    if answer.last.finish_reason == "length" and answer.num_tokens != params.max_tokens:
        click.echo(f"note: the context of {model.context_length} tokens is full: the answer is cut off", err=True)
    if with_stats:
        usage = answer.last.usage
        click.echo(
            f"[{usage.prompt_tokens} prompt tokens, {answer.speed}, loaded in {load_seconds:.1f} s, "
            f"seed {params.seed}, finish: {answer.last.finish_reason}]",
            err=True,
        )


def _unheard(text: str) -> None:
    """Of an answer that is wanted whole."""


def prompt_ids(model: Model, asked: Asked) -> list[int]:
    """Raises RequestError."""
    if asked.is_raw:
        return model.encode(asked.prompt)
    if model.chat_template is None:
        if asked.system:
            raise RequestError(f"{model.name} has no chat template, so --system means nothing to it: leave it out")
        click.echo(f"note: {model.name} has no chat template: it continues the prompt as it is (--raw)", err=True)
        return model.encode(asked.prompt)
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    return model.encode_chat([*system, {"role": "user", "content": asked.prompt}])


def _write_json(screen: Screen, model: Model, params: SamplingParams, answer: Answer, load_seconds: float) -> None:
    last = answer.last
    told = {
        "model": model.name,
        "text": answer.text,
        "finish_reason": last.finish_reason,
        "stop_reason": last.stop_reason,
        "seed": params.seed,
        "usage": {
            "prompt_tokens": last.usage.prompt_tokens,
            "completion_tokens": last.usage.output_tokens,
            "total_tokens": last.usage.prompt_tokens + last.usage.output_tokens,
        },
        "timings": {
            "load_seconds": round(load_seconds, 6),
            "first_token_seconds": round(answer.wait, 6),
            "generation_seconds": round(answer.seconds, 6),
            "tokens_per_second": _rounded(rate(answer.num_tokens, answer.seconds)),
        },
    }
    # In a terminal what a model writes must not be obeyed.
    screen.write(json.dumps(told, ensure_ascii=screen.is_terminal) + "\n")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
