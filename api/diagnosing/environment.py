"""Gathers what is so on this machine: programs, processor, memory, folders, the hub. It judges nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from time import perf_counter

from mistralrs_onnx.caching.cache_entries import entries
from mistralrs_onnx.caching.cache_places import cache_folder
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.library import hub_library
from mistralrs_onnx.compiler.sources.repository import hub_cache, hub_endpoint, is_offline
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.memory import available_memory, total_memory
from mistralrs_onnx.runtime.containers import Container
from mistralrs_onnx.runtime.cuda import PROVIDER, cuda_problem
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.native import instruction_set, kernel_problem
from mistralrs_onnx.runtime.sessions import (
    BUILDS,
    OLDEST,
    OLDEST_UNIFORM,
    is_new_enough,
    num_processors,
    runtime_library,
)

from .facts import (
    PREFIX,
    Answer,
    Cached,
    Dependency,
    Disk,
    Facts,
    Hub,
    Kernels,
    Memory,
    Processor,
    Processors,
    Runtime,
    Token,
)
from .kernel_probe import probe_kernels

PACKAGE = "mistralrs-onnx"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?:>=\s*(?P<least>[\d.]+))?(?P<rest>[^;]*)(?P<marker>;.*)?")
CPUINFO = Path("/proc/cpuinfo")
PATIENCE = 10.0  # seconds for the hub


@dataclass(frozen=True, slots=True)
class Asked:
    """What only the one who asks knows: variables that are read, the terminal's encoding, what else to look at."""

    known: frozenset[str]
    encoding: str
    port: int
    token_source: TokenSource
    online: bool


def gather(asked: Asked) -> Facts:
    """Takes about two seconds, most of them for the probe of the kernels. Asks the hub only if told to."""
    runtime = _runtime()
    return Facts(
        python=platform.python_version(),
        requires_python=metadata(PACKAGE)["Requires-Python"].lstrip(">="),
        dependencies=_dependencies(),
        runtime=runtime,
        processor=_processor(),
        processors=Processors(os.cpu_count() or 1, num_processors(), Container().processors()),
        memory=_memory(),
        cache=disk(cache_folder()),
        cached=cached(),
        hub=_hub(),
        token=_token(asked.token_source),
        answer=ask_hub(asked.token_source) if asked.online else None,
        variables=tuple(sorted(name for name in os.environ if name.startswith(PREFIX))),
        known=asked.known,
        encoding=asked.encoding,
        port=asked.port,
        port_problem=port_problem(asked.port),
        native_problem=kernel_problem(),
        native_set=instruction_set(),
        kernels=_kernels() if runtime.is_for_cpu and not runtime.problem else Kernels((), 0.0),
    )


def parse_requirement(text: str) -> Dependency | None:
    """None for what is needed only by an extra or on other machines. Our requirements are of the form `name>=1.2`."""
    match = REQUIREMENT.fullmatch(text.strip())
    if match is None or match["marker"]:
        return None
    return Dependency(match["name"], match["least"] or "0", _installed(match["name"]))


def disk(folder: Path) -> Disk:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Disk(folder, is_writable, shutil.disk_usage(there).free)


def cached() -> Cached:
    found = entries()
    packages, leftovers, unusable = (
        [each.size for each in found if each.state == state] for state in ("package", "leftover", "unusable")
    )
    return Cached(len(packages), sum(packages), len(leftovers) + len(unusable), sum(leftovers) + sum(unusable))


def port_problem(port: int) -> str:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def ask_hub(source: TokenSource) -> Answer:
    """Asks who the token belongs to, or without one for the name of any model."""
    try:
        token = source.read()
        where = "whoami-v2" if token else "models?limit=1"
        utils = hub_library().utils
        headers = utils.build_hf_headers(token=token or False, library_name=PACKAGE, library_version=version(PACKAGE))
        return Answer(
            utils.get_session().get(f"{hub_endpoint()}/api/{where}", headers=headers, timeout=PATIENCE).status_code
        )
    except (CompileError, OSError, hub_library().errors.HTTPError, hub_library().errors.OfflineModeIsEnabled) as error:
        lines = str(error).strip().splitlines()
        return Answer(None, lines[0] if lines else type(error).__name__)


def _dependencies() -> tuple[Dependency, ...]:
    return tuple(each for text in requires(PACKAGE) or () if (each := parse_requirement(text)) is not None)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _runtime() -> Runtime:
    wheels = {name: found for name in BUILDS if (found := _installed(name)) is not None}
    try:
        library = runtime_library(OLDEST_UNIFORM)
        if PROVIDER not in library.get_available_providers():
            runtime_library()  # older ones have nothing to run on
            return Runtime(wheels, tuple(library.get_available_providers()))
        is_for_cpu, cuda = is_new_enough(library, OLDEST), cuda_problem(library)
        return Runtime(wheels, tuple(library.get_available_providers()), is_for_cpu=is_for_cpu, cuda=cuda)
    except PackageError as error:
        return Runtime(wheels, problem=str(error))


def _processor() -> Processor:
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    return read_processor(text, platform.machine(), platform.processor())


def read_processor(cpuinfo: str, machine: str, otherwise: str) -> Processor:
    """Of its first processor; ARM calls the flags features."""
    values: dict[str, str] = dict(re.findall(r"^(.+?)\s*: (.*)$", cpuinfo.partition("\n\n")[0], re.MULTILINE))
    features = values.get("flags", values.get("Features", "")).split()
    return Processor(values.get("model name", otherwise) or machine, machine, frozenset(features))


def _memory() -> Memory:
    bound = Container().memory()
    return Memory(total_memory(), available_memory(), None if bound is None else bound.limit)


def _hub() -> Hub:
    found = Hub("", disk(hub_cache()), is_offline())
    try:
        return found._replace(endpoint=hub_endpoint())
    except CompileError as error:
        return found._replace(problem=str(error))


def _token(source: TokenSource) -> Token:
    try:
        return Token(str(source), source.read() is not None)
    except CompileError as error:
        return Token(str(source), is_found=False, problem=str(error))


def _kernels() -> Kernels:
    start = perf_counter()
    try:
        return Kernels(probe_kernels(), perf_counter() - start)
    except (PackageError, CompileError) as error:
        return Kernels((), perf_counter() - start, str(error))
