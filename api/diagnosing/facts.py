"""What is so on a machine, as far as running models goes: plain data, gathered in one place and judged in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.runtime.cuda import Problem

from .kernel_probe import Probed

PREFIX = "MISTRALRS_"  # of our variables


class Dependency(NamedTuple):
    """`least`: the oldest version that we work with. `installed`: None when it is missing."""

    name: str
    least: str
    installed: str | None


class Runtime(NamedTuple):
    """`wheels`: versions of the builds of ONNX Runtime that are installed. `problem`: why it cannot be used.

    `is_for_cpu`: whether it is new enough for models on the processor. `cuda`: what keeps a build for CUDA from using
    it.
    """

    wheels: Mapping[str, str]
    providers: tuple[str, ...] = ()
    problem: str = ""
    is_for_cpu: bool = True
    cuda: Problem | None = None


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
    """Packages that were compiled on the way; what broken compiles and other versions left there. Sizes in bytes."""

    num_packages: int
    size: int
    num_useless: int = 0
    useless_size: int = 0


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
    `native_problem`: why none of our kernels run. `native_set`: the instruction set that they use.
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
    native_problem: str | None
    native_set: str | None
    kernels: Kernels
