"""Judges what is so on a machine: each check says ok, warn or fail, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mistralrs_onnx.compiler.estimate import RUNTIME_BASE, size_text
from mistralrs_onnx.compiler.sources.repository import PUBLIC_HUB
from mistralrs_onnx.runtime.cuda import PROVIDER
from mistralrs_onnx.runtime.native import VARIABLE as KERNEL_ISA

from .facts import PREFIX, Disk, Facts, Kernels
from .instruction_sets import arm, is_arm, x86

Status = Literal["ok", "warn", "fail"]

GiB = 1 << 30
LITTLE_MEMORY = 1 * GiB  # the demo model, its server and the system beside them
LITTLE_DISK = 5 * GiB  # a package of 7 billion weights in 4 bits
INSTALL = "pip install 'mistralrs-onnx[cpu]'"
OUR_KERNELS_NEED = {"avx2", "fma", "f16c"}
SET_NAMES = {"amx": "AMX and AVX-512 VNNI", "avx512": "AVX-512 VNNI", "avxvnni": "AVX-VNNI", "avx2": "AVX2"}
SINGLE = "answers are right all the same; for the same text each time, serve with --max-seqs 1 --no-prefix-cache"


class Check(NamedTuple):
    """`text`: what is so. `remedy`: what to do about it."""

    name: str
    status: Status
    text: str
    remedy: str = ""


def diagnose(facts: Facts) -> list[Check]:
    """In the order of a start: programs, machine, folders, hub, settings, and what the machine computes."""
    checks = [check(facts) for check in CHECKS]
    return checks if facts.answer is None else [*checks, check_answer(facts)]


def check_python(facts: Facts) -> Check:
    if _version(facts.python) < _version(facts.requires_python):
        return Check("Python", "fail", facts.python, f"install Python {facts.requires_python} or newer")
    return Check("Python", "ok", facts.python)


def check_wheels(facts: Facts) -> Check:
    wheels = [f"{name} {found}" for name, found in facts.runtime.wheels.items()]
    if len(wheels) > 1:
        names = " ".join(facts.runtime.wheels)
        text = f"{' and '.join(wheels)} share a folder and break each other"
        return Check("wheels", "fail", text, f"pip uninstall -y {names}, then {INSTALL}")
    return Check("wheels", "ok", f"one build of ONNX Runtime: {wheels[0]}" if wheels else "no build of ONNX Runtime")


def check_runtime(facts: Facts) -> Check:
    runtime = facts.runtime
    if len(runtime.wheels) > 1:
        return Check("ONNX Runtime", "fail", "not tried while there are two builds", "first mend the wheels")
    if not runtime.wheels:
        return Check("ONNX Runtime", "fail", "not installed", INSTALL)
    if runtime.problem:
        return Check("ONNX Runtime", "fail", runtime.problem, "if it is installed, add --force-reinstall to that")
    found = next(iter(runtime.wheels.values()))
    text = f"{found}, providers {', '.join(runtime.providers)}"
    if "CPUExecutionProvider" not in runtime.providers:
        return Check("ONNX Runtime", "fail", f"{text}: none for the processor", INSTALL)
    if not runtime.is_for_cpu:
        return Check("ONNX Runtime", "ok", f"{text}; too old for models on the processor, they run with --device cuda")
    return Check("ONNX Runtime", "ok", f"{text}; models run on the processor")


def check_cuda(facts: Facts) -> Check:
    runtime = facts.runtime
    if PROVIDER not in runtime.providers:
        return Check("CUDA", "ok", "not in this build; --device cuda needs onnxruntime-gpu instead of onnxruntime")
    if runtime.cuda is None:
        return Check("CUDA", "ok", "libraries and driver are there; models run on it with --device cuda")
    return Check("CUDA", "warn" if runtime.is_for_cpu else "fail", *runtime.cuda)


def check_dependencies(facts: Facts) -> Check:
    wrong = [each for each in facts.dependencies if each.installed is None or _is_old(each.installed, each.least)]
    if not wrong:
        return Check("dependencies", "ok", f"all {len(facts.dependencies)} are new enough")
    found = ", ".join(f"{each.name} {each.installed or 'missing'} (needs {each.least})" for each in wrong)
    wanted = " ".join(f"'{each.name}>={each.least}'" for each in wrong)
    return Check("dependencies", "fail", found, f"pip install --upgrade {wanted}")


def check_processor(facts: Facts) -> Check:
    processor = facts.processor
    meaning = arm(processor.features) if is_arm(processor.machine) else x86(processor.features)
    return Check("processor", "warn" if meaning.is_slow else "ok", f"{processor.model}: {meaning.text}", meaning.remedy)


def check_native(facts: Facts) -> Check:
    stock = "quantized weights run on ONNX Runtime's operators"
    if facts.native_set is not None:
        name = SET_NAMES[facts.native_set]
        return Check("kernels", "ok", f"quantized weights run on kernels of our own, with {name}")
    if facts.processor.machine != "x86_64" or not facts.processor.features >= OUR_KERNELS_NEED:
        return Check("kernels", "ok", f"{stock}; our own need AVX2 on x86-64")
    text = f"{stock}, which is slower than our own kernels: {facts.native_problem}"
    if KERNEL_ISA in facts.variables:
        return Check("kernels", "warn", text, f"unset {KERNEL_ISA}")
    return Check("kernels", "warn", text, "install g++, then mistralrs-onnx again from its source")


def check_processors(facts: Facts) -> Check:
    total, usable, share = facts.processors
    of = f"{usable} of {total} may be used" if usable < total else f"{usable}, all may be used"
    if share is not None and share < usable:
        fitting = max(int(share), 1)
        text = f"{of}, but the container gets the time of {share:g}: threads would wait for each other"
        return Check("processors", "warn", text, f"start commands with --threads {fitting}")
    return Check("processors", "ok", of)


def check_memory(facts: Facts) -> Check:
    total, available, limit = facts.memory
    text = f"{size_text(available)} available of {size_text(total)}"
    if limit is not None and limit < total:
        text += f", the container may take {size_text(limit)}"
    if available < 2 * RUNTIME_BASE:
        return Check("memory", "fail", text, "end other programs or allow the container more: no model fits")
    if available < LITTLE_MEMORY:
        return Check("memory", "warn", text, "only the smallest models fit: end other programs, or allow more")
    return Check("memory", "ok", text)


def check_cache(facts: Facts) -> Check:
    return _check_disk("cache", facts.cache, "MISTRALRS_CACHE", otherwise="fail")


def check_packages(facts: Facts) -> Check:
    found = facts.cached
    text = f"{count(found.num_packages, 'cached package')}, {size_text(found.size)}"
    if not found.num_useless:
        return Check("packages", "ok", text)
    useless = (
        f"{count(found.num_useless, 'folder')} of broken compiles or other versions, {size_text(found.useless_size)}"
    )
    return Check("packages", "warn", f"{text}; {useless}", "see them with mistralrs-onnx cache list")


def check_hub(facts: Facts) -> Check:
    hub = facts.hub
    if hub.problem:
        return Check("hub", "fail", hub.problem, f"correct HF_ENDPOINT, or unset it for {PUBLIC_HUB}")
    if hub.is_offline:
        text = f"{hub.endpoint}, but HF_HUB_OFFLINE is set: only what was fetched before"
        return Check("hub", "ok", text, "unset HF_HUB_OFFLINE to fetch more")
    return _check_disk(f"hub {hub.endpoint}", hub.disk, "HF_HOME", otherwise="warn")._replace(name="hub")


def check_token(facts: Facts) -> Check:
    token = facts.token
    if token.problem:
        return Check("hub token", "fail", token.problem, "correct --token-source, or leave it out")
    if token.is_found:
        return Check("hub token", "ok", f"found ({token.source})")
    text = f"none ({token.source}): models that ask for a licence or are private stay closed"
    return Check("hub token", "ok", text, "if you need them: hf auth login, or set HF_TOKEN")


def check_variables(facts: Facts) -> Check:
    unknown = [name for name in facts.variables if name not in facts.known]
    read = [name for name in facts.variables if name in facts.known]
    if not unknown:
        return Check("variables", "ok", f"set and read: {', '.join(read)}" if read else "no MISTRALRS_* is set")
    advice = "; ".join(_meant(name, facts.known) for name in unknown)
    return Check("variables", "warn", f"nobody reads {', '.join(unknown)}", advice)


def check_terminal(facts: Facts) -> Check:
    if facts.encoding.lower().replace("-", "").replace("_", "") == "utf8":
        return Check("terminal", "ok", "UTF-8")
    text = f"writes {facts.encoding}, in which many letters of answers cannot be written"
    return Check("terminal", "warn", text, "export PYTHONUTF8=1, or LANG=C.UTF-8")


def check_port(facts: Facts) -> Check:
    if facts.port_problem:
        text = f"{facts.port} cannot be had: {facts.port_problem}"
        return Check("port", "warn", text, "end the other server, or serve elsewhere with --port N")
    return Check("port", "ok", f"{facts.port} is free")


def check_kernels(facts: Facts) -> Check:
    kernels = facts.kernels
    if facts.runtime.problem:
        return Check("invariance", "fail", "not probed without ONNX Runtime", "first mend that, as above")
    if not facts.runtime.is_for_cpu:
        return Check("invariance", "ok", "of the processor only, on which nothing runs here")
    if kernels.problem:
        return Check("invariance", "fail", f"a tiny model does not run: {kernels.problem}", "mend what fails above")
    odd = [each.kind for each in kernels.probed if not each.is_invariant]
    if odd:
        return Check("invariance", "warn", f"batches change the last bits of logits here ({', '.join(odd)})", SINGLE)
    return Check("invariance", "ok", _invariant_text(kernels))


def check_answer(facts: Facts) -> Check:
    status, problem = facts.answer or (None, "not asked")
    where, sent = facts.hub.endpoint, facts.token.is_found
    if facts.hub.problem or facts.token.problem:
        return Check("hub answer", "fail", "not asked", "first mend the hub and its token, as above")
    if status is None:
        remedy = "check the connection, HF_ENDPOINT and proxies; models in local folders need no hub"
        return Check("hub answer", "fail", f"{where} cannot be reached: {problem}", remedy)
    if status in (401, 403):
        text = f"{where} refuses {'the token' if sent else 'access'} with status {status}"
        return Check("hub answer", "fail", text, "make a new token at the hub, then hf auth login")
    if status >= 400:
        text = f"{where} answers with status {status}"
        return Check("hub answer", "warn", text, "try again later, or check HF_ENDPOINT")
    return Check("hub answer", "ok", f"{where} answers" + (" and knows the token" if sent else ""))


def _check_disk(name: str, disk: Disk, variable: str, otherwise: Status) -> Check:
    text = f"{disk.folder}, {size_text(disk.free)} free"
    if name.startswith("hub "):
        text = f"{name.removeprefix('hub ')}, kept in {text}"
    if not disk.is_writable:
        return Check(name, otherwise, f"{disk.folder} cannot be written to", f"allow it, or set {variable} elsewhere")
    if disk.free < LITTLE_DISK:
        return Check(name, "warn", text, f"make room, or set {variable} to a folder on another disk")
    return Check(name, "ok", text)


def _invariant_text(kernels: Kernels) -> str:
    text = f"logits are the same bits alone and in batches (probed in {kernels.seconds:.1f} s)"
    pairs = [each.kind for each in kernels.probed if each.row_multiple > 1]
    if pairs:
        text += f"; rows go in pairs for that ({', '.join(pairs)}), which slows single requests a little"
    return text


def _meant(variable: str, known: Iterable[str]) -> str:
    names = [name.removeprefix(PREFIX) for name in sorted(known)]
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1)
    return f"did you mean {PREFIX}{near[0]} by {variable}?" if near else f"unset {variable}"


def _is_old(installed: str, least: str) -> bool:
    return _version(installed) < _version(least)


def _version(text: str) -> tuple[int, ...]:
    """The numbers before any letter: 1.32.0rc1 is as good as 1.32.0."""
    numbers = [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+-]", text, maxsplit=1)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_python,
    check_wheels,
    check_runtime,
    check_cuda,
    check_dependencies,
    check_processor,
    check_native,
    check_processors,
    check_memory,
    check_cache,
    check_packages,
    check_hub,
    check_token,
    check_variables,
    check_terminal,
    check_port,
    check_kernels,
)
