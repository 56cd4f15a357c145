"""The option that says where a model runs, and what cannot be said beside it."""

from __future__ import annotations

import click
from click.core import ParameterSource

from mistralrs_onnx.runtime.devices import KNOWN, Device, parse_device
from mistralrs_onnx.runtime.errors import PackageError

from .option import Decorator, option, said

OF_THE_CPU = {  # options that mean nothing elsewhere, but for a value
    "determinism": None,
    "kernels": "stock",
    "kv_dtype": "float16",
}


def _parsed(ctx: click.Context, param: click.Parameter, value: str) -> Device:
    try:
        return parse_device(value)
    except PackageError as error:
        raise click.BadParameter(str(error)) from error


def device_option(subject: str) -> Decorator:
    return option(
        "--device",
        metavar="DEVICE",
        default="cpu",
        callback=_parsed,
        subject=subject,
        help=f"Where to run: {KNOWN}.",
    )


def chosen_device(ctx: click.Context) -> Device:
    """Raises UsageError for options that were said beside it in vain."""
    values = said(ctx)
    device: Device = values["device"]
    for name, allowed in OF_THE_CPU.items():
        is_said = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        if device.is_cuda and is_said and values[name] != allowed:
            raise click.UsageError(f"--{name.replace('_', '-')} {values[name]} is of the CPU: leave it out on {device}")
    return device
