"""What is so on this machine, gathered once: programs, processor, memory, folders, the hub. Judged elsewhere."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.library import hub_library
from mistralrs_onnx.compiler.sources.repository import hub_cache, hub_endpoint, is_offline
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.sessions import BUILDS, num_processors, runtime_library

from .cache import cache_folder
from .containers import Container
from .kernel_probe import Probed, probe_kernels
from .memory import available_memory, total_memory

PACKAGE = "mistralrs-onnx"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?:>=\s*(?P<least>[\d.]+))?(?P<rest>[^;]*)(?P<marker>;.*)?")
CPUINFO = Path("/proc/cpuinfo")
PATIENCE = 10.0  # seconds for the hub
PREFIX = "MISTRALRS_"
UNFINISHED = re.compile(r"\..+\.(?:tmp-(?P<process>\d+)|old)")  # as compiler/package.py calls them


class Dependency(NamedTuple):
    """`least`: the oldest version that we work with. `installed`: None when it is missing."""

    name: str
    least: str
    installed: str | None


class Runtime(NamedTuple):
    """`wheels`: versions of the builds of ONNX Runtime that are installed. `problem`: why it cannot be used."""

    wheels: Mapping[str, str]
    providers: tuple[str, ...] = ()
    problem: str = ""


class Processor(NamedTuple):
    """`features`: instruction sets as Linux names them; empty where it is not said."""

    model: str
    machine: str
    features: frozenset[str]


class Processors(NamedTuple):
    """`usable`: that threads are started for. `share`: how many processors' time a container may take."""

    of_machine: int
    usable: int
    share: float | None


class Memory(NamedTuple):
    """Bytes. `limit`: of the container."""

    total: int
    available: int
    limit: int | None


class Disk(NamedTuple):
    """A folder, or the place where it will be. `free`: bytes."""

    folder: Path
    is_writable: bool
    free: int


class Cached(NamedTuple):
    """Packages that were compiled on the way, and what compiles that broke off left. Sizes in bytes."""

    num_packages: int
    size: int
    leftovers: tuple[str, ...] = ()
    leftover_size: int = 0


class Hub(NamedTuple):
    """`problem`: with the endpoint."""

    endpoint: str
    disk: Disk
    is_offline: bool
    problem: str = ""


class Token(NamedTuple):
    """Whether there is one, not what it is. `problem`: why it cannot be read."""

    source: str
    is_found: bool
    problem: str = ""


class Answer(NamedTuple):
    """Of the hub. `status`: of HTTP; None when there was no answer, for which `problem` is the reason."""

    status: int | None
    problem: str = ""


class Kernels(NamedTuple):
    """What the probe of the machine found in that many seconds. `problem`: why it could not run."""

    probed: tuple[Probed, ...]
    seconds: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is judged. `variables`: those of ours that are set; `known`: those that somebody reads.

    `answer`: None when the hub was not asked. `port_problem`: why nobody can listen there.
    """

    python: str
    requires_python: str
    dependencies: tuple[Dependency, ...]
    runtime: Runtime
    processor: Processor
    processors: Processors
    memory: Memory
    cache: Disk
    cached: Cached
    hub: Hub
    token: Token
    answer: Answer | None
    variables: tuple[str, ...]
    known: frozenset[str]
    encoding: str
    port: int
    port_problem: str
    kernels: Kernels


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
        cached=cached(cache_folder() / "packages"),
        hub=_hub(),
        token=_token(asked.token_source),
        answer=ask_hub(asked.token_source) if asked.online else None,
        variables=tuple(sorted(name for name in os.environ if name.startswith(PREFIX))),
        known=asked.known,
        encoding=asked.encoding,
        port=asked.port,
        port_problem=port_problem(asked.port),
        kernels=Kernels((), 0.0, runtime.problem) if runtime.problem else _kernels(),
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


def cached(folder: Path) -> Cached:
    """Unfinished folders of a process that still runs are no leftovers."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    unfinished = {path: match for path in folders if (match := UNFINISHED.fullmatch(path.name))}
    packages = [path for path in folders if path not in unfinished]
    left = sorted(path for path, match in unfinished.items() if not _runs(match["process"]))
    return Cached(len(packages), _size(packages), tuple(str(path) for path in left), _size(left))


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
        return Runtime(wheels, tuple(runtime_library().get_available_providers()))
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


def _runs(process: str | None) -> bool:
    if process is None or sys.platform == "win32":
        return False
    try:
        os.kill(int(process), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _size(folders: list[Path]) -> int:
    return sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
