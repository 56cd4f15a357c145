"""The runner of a package: which of its graphs runs, on which device, with how many slots."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mistralrs_onnx.runtime.core import Runner
from mistralrs_onnx.runtime.devices import parse_device
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.native import kernel_library
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.probe import NEEDED, check_logits, is_invariant, settle_rows
from mistralrs_onnx.runtime.runner import Extra, OrtRunner
from mistralrs_onnx.runtime.sessions import make_session
from mistralrs_onnx.runtime.xlora import XLoraRunner

from .cuda_runner import make_cuda_runner
from .load_options import LoadOptions, check_chunk

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)


def start_runner(package: Package, options: LoadOptions) -> Runner:
    """Loaded, and checked on a few tokens. Raises PackageError."""
    if parse_device(options.device).is_cuda:
        logger.warning(
            "on %s near ties may be decided otherwise in another batch: logits are not invariant", options.device
        )
        return start_draft(package, options)
    runner = _make_cpu_runner(package, options)
    check_logits(runner)
    settle_rows(runner)
    if options.determinism == "invariant":
        _check_invariance(runner)
    return runner


def start_draft(package: Package, options: LoadOptions) -> Runner:
    """As `start_runner`, of whom no bits are expected."""
    device = parse_device(options.device)
    runner = make_cuda_runner(package, options, device) if device.is_cuda else _make_cpu_runner(package, options)
    check_logits(runner)
    return runner


def make_xlora_runner(package: Package, options: LoadOptions, session: InferenceSession) -> XLoraRunner | None:
    """None for a package without X-LoRA."""
    record = package.manifest.xlora
    if record is None:
        return None
    return XLoraRunner(
        lambda extra: make_runner(package, options, session, extra), record, options.tgt_non_granular_index
    )


def make_runner(
    package: Package, options: LoadOptions, session: InferenceSession, extra: Extra | None = None
) -> OrtRunner:
    """The runner of a package, which has more slots than requests: the others keep finished conversations."""
    limits, manifest = options.engine, package.manifest
    check_chunk(limits)
    return OrtRunner(
        session,
        manifest,
        num_slots=_num_slots(limits),
        max_model_len=limits.max_model_len or manifest.context_length,
        max_chunk=limits.prefill_chunk,
        kv_dtype=options.kv_dtype,
        determinism=options.determinism,
        extra=Lanes(manifest.lora, limits.max_seqs) if extra is None and options.adapters is not None else extra,
    )


def _make_cpu_runner(package: Package, options: LoadOptions) -> XLoraRunner | OrtRunner:
    path = package.engine(options.kv_dtype, takes_adapters=options.adapters is not None)
    session = make_session(path, options.num_threads, kernels=chosen_kernels(package, options))
    return make_xlora_runner(package, options, session) or make_runner(package, options, session)


def chosen_kernels(package: Package, options: LoadOptions) -> Path | None:
    """Ours round activations to int8: a package that keeps them in float32 is not for them."""
    if options.kernels == "stock" or package.manifest.accuracy != "int8":
        return None
    return kernel_library()


def _num_slots(limits: EngineOptions) -> int:
    """Whoever keeps nothing computes one text at a time; the checks of a machine need two."""
    if not limits.kv_cache:
        return 2
    num_kept = limits.max_seqs if limits.prefix_cache_n is None else limits.prefix_cache_n
    return max(2, limits.max_seqs + num_kept)


def _check_invariance(runner: Runner) -> None:
    if runner.capacity < NEEDED:
        logger.warning(
            "a context of %d tokens is too short to check invariance on this machine: allow %d or more",
            runner.capacity,
            NEEDED,
        )
    elif not is_invariant(runner):
        logger.warning("on this machine near ties may be decided otherwise in another batch: logits are not invariant")
