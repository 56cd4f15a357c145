"""Which model a request named, and which of its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.errors import RequestError

from .model import Model
from .schemas import Completion

HOW_TO_START = "start it with --lora-modules NAME=PATH or --adapter-root FOLDER"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Served:
    """`name`: of the model, or of the adapter that was asked for in its place. `adapter`: None is the base."""

    name: str
    adapter: Adapter | None = None


def served(body: Completion, model: Model) -> Served:
    """Combining adapters takes its time. Raises RequestError 404 for names that are not known."""
    parts = None if body.adapters is None else [Part(each.name, each.weight) for each in body.adapters]
    if body.model in (None, "", DEFAULT, model.name):
        return Served(model.name, select(parts, model))
    if model.adapters is None or body.model not in model.adapters:
        raise unknown_model(body.model, model)
    if parts is not None and parts != [Part(body.model)]:
        message = f"model asks for the adapter {body.model!r}, and adapters for something else: leave one of them out"
        raise RequestError(message, param="adapters")
    return Served(body.model, select([Part(body.model)], model))


def select(parts: Sequence[Part] | None, model: Model) -> Adapter | None:
    if model.adapters is not None:
        return model.adapters.select(parts)
    if parts:
        raise without_adapters(parts[0].name, model)
    return None


def without_adapters(name: str, model: Model) -> RequestError:
    """Why a model that takes none has no adapter of this name."""
    if model.mixed_adapters:
        return mixes_itself(model)
    message = f"The adapter {name!r:.128} does not exist: this server was started without adapters; {HOW_TO_START}."
    return RequestError(message, status=404, code="adapter_not_found", param="adapters")


def mixes_itself(model: Model) -> RequestError:
    mixed = ", ".join(model.mixed_adapters)
    message = f"This model mixes its own adapters ({mixed:.200}) for each token (X-LoRA): requests cannot choose any."
    return RequestError(message, code="unsupported", param="adapters")


def unknown_model(name: str | None, model: Model) -> RequestError:
    known = [model.name] if model.adapters is None else [model.name, *(each.name for each in model.adapters.loaded())]
    message = f"The model {name!r:.128} does not exist: this server has {', '.join(map(repr, known[:8]))}"
    more = f" and {len(known) - 8} more, see /v1/models." if len(known) > 8 else "."
    return RequestError(f"{message:.380}{more}", status=404, code="model_not_found", param="model")
