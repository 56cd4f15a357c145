"""What a command line hands on, instead of doing it."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mistralrs_onnx.tools import bench, making, serve, serving
from mistralrs_onnx.tools import compile as compiling
from mistralrs_onnx.tools.cli.options import CompiledNow, Made

MAINS: dict[str, click.Group] = {"server": serve.main, "compile": compiling.main, "bench": bench.main}


class Reached(Exception):  # noqa: N818
    """Carries what was handed on."""


def _reach(*values: object) -> None:
    raise Reached(*values)


def handed_on(command: str, *arguments: object) -> tuple[Any, ...]:
    """Of `server` and `bench` what is wanted and what locates the package, of `compile` the arguments of `make`.

    Asserts that the command gets so far.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "start", _reach)
        patch.setattr(making, "make", _reach)
        patch.setattr(bench, "usable_device", lambda text: None)  # there may be none of the kind
        for locate in (CompiledNow, Made):  # of the benchmark
            patch.setattr(locate, "__call__", lambda locate: _reach(click.get_current_context().obj, locate))
        result = invoke(command, *arguments)
    assert isinstance(result.exception, Reached), result.output
    return result.exception.args


def invoke(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(MAINS[command], [str(each) for each in arguments])
