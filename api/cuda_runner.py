"""The runner of a package on CUDA, and what cannot be had there."""

from __future__ import annotations

import logging

from mistralrs_onnx.runtime.core import Runner
from mistralrs_onnx.runtime.device_pool import DTYPE
from mistralrs_onnx.runtime.devices import Device
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.prefix_cache import rows_for
from mistralrs_onnx.runtime.sessions import OLDEST_UNIFORM, make_session
from mistralrs_onnx.runtime.uniform_runner import UniformRunner

from .load_options import LoadOptions, check_chunk

logger = logging.getLogger(__name__)


def make_cuda_runner(package: Package, options: LoadOptions, device: Device) -> UniformRunner:
    """Over slots for the requests that run, and for as many conversations beside them as `prefix_cache_n` says.

    Raises PackageError where the device has too little memory, and for what cannot be had there.
    """
    check_cuda_options(package, options, device)
    limits, manifest = options.engine, package.manifest
    num_slots = max(2, limits.max_seqs + (limits.prefix_cache_n or 0)) if limits.kv_cache else 2
    length = slot_length(limits, num_slots, manifest.kv.token_bytes(DTYPE.itemsize), manifest.context_length)
    engine, slots = (make_session(path, options.num_threads, device, OLDEST_UNIFORM) for path in package.cuda())
    runner = UniformRunner(engine, slots, manifest, device, num_slots=num_slots, max_model_len=length)
    taken = num_slots * length * runner.token_bytes / 2**30
    logger.info("%d slots of %d tokens take %.1f GiB of %s", num_slots, length, taken, device)
    return runner


def whole_memory(runner: Runner) -> int:
    """What an engine may use of memory that is taken already: all of it."""
    return runner.num_slots * rows_for(runner.capacity) * runner.token_bytes


def slot_length(limits: EngineOptions, num_slots: int, token_bytes: int, context_length: int) -> int:
    """Tokens of a slot: as many as are asked for, else as many as `kv_mem` has room for, else the whole context.

    Raises PackageError for more than there is room for.
    """
    length = limits.max_model_len or context_length
    if limits.kv_mem is None:
        return length
    room = limits.kv_mem // (num_slots * token_bytes) - 1  # an idle slot writes behind its last token
    if limits.max_model_len is None and room >= 1:
        return min(length, room)
    if room < length:
        needed, allowed = (size / 2**30 for size in (num_slots * (length + 1) * token_bytes, limits.kv_mem))
        raise PackageError(
            f"keys and values of {num_slots} slots of {length} tokens need {needed:.2f} GiB, and --kv-mem allows "
            f"{allowed:.2f} GiB: raise it, or lower --max-model-len, --max-seqs or --prefix-cache-n"
        )
    return length


def check_cuda_options(package: Package, options: LoadOptions, device: Device) -> None:
    """Raises PackageError."""
    if package.manifest.xlora is not None:
        raise PackageError(f"{package.path} has X-LoRA, which runs on the CPU only: leave out the device {device}")
    if options.adapters is not None:
        carried = ", ".join(package.manifest.adapters)
        whose = f"{package.path} carries adapters ({carried})" if carried else "there are adapters to load"
        raise PackageError(f"{whose}, which run on the CPU only: merge them (--lora of mistralrs-compile), or use cpu")
    if options.determinism != "invariant":
        raise PackageError(f"determinism {options.determinism!r} is of the CPU: leave it out on {device}")
    check_chunk(options.engine)
