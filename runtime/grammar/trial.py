"""Compiles each grammar first in another process, over a vocabulary of bytes: there it can be stopped.

A grammar that a request sends may take the time and memory of an attack, which no thread can be made to give back.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import asdict

import orjson
from llguidance import LLMatcher, LLTokenizer

from .limits import MIB, GrammarLimits

DEAD_END = "NoExtension"  # how llguidance says that no token may come


class TrialProcesses:
    """As many processes as there were callers at a time; each lives until a grammar kills it, or `close`."""

    def __init__(self, limits: GrammarLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []

    def run(self, source: str) -> str | None:
        """Why the grammar is refused, None if it is not."""
        process = self._take()
        start = time.monotonic()
        timer = threading.Timer(self._limits.trial_seconds, process.kill)
        timer.start()
        try:
            answer = _ask(process, source)
        finally:
            timer.cancel()
        if answer is None:
            _end(process)
            return self._cost(timed_out=time.monotonic() - start >= self._limits.trial_seconds)
        with self._lock:
            self._idle.append(process)
        return str(answer["refused"]) if answer["refused"] else None

    def close(self) -> None:
        with self._lock:
            for process in self._idle:
                _end(process)
            self._idle.clear()

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            while self._idle:
                if (process := self._idle.pop()).poll() is None:
                    return process
        command = [sys.executable, "-m", __name__, orjson.dumps(asdict(self._limits)).decode()]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun: from here on time counts
        return process

    def _cost(self, *, timed_out: bool) -> str:
        if timed_out:
            return f"compiling it takes more than {self._limits.trial_seconds:g} s"
        return f"compiling it takes more than {self._limits.trial_bytes // MIB} MiB of memory"


def _ask(process: subprocess.Popen[bytes], source: str) -> dict[str, str | None] | None:
    """None if the process ended instead of answering."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(orjson.dumps(source) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        return None
    return orjson.loads(line) if line.endswith(b"\n") else None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def refusal(tokenizer: LLTokenizer, source: str, limits: GrammarLimits) -> str | None:
    """llguidance's reason, or that masks take too long."""
    matcher = LLMatcher(tokenizer, source, limits=limits.for_llguidance(), log_level=0)
    start = time.process_time()
    if not matcher.is_error():
        matcher.compute_bitmask()
    seconds = time.process_time() - start
    if matcher.is_error():
        return "nothing matches it" if matcher.get_error().startswith(DEAD_END) else matcher.get_error()
    return f"its first mask takes {seconds:.2f} s" if seconds > limits.mask_seconds else None


def serve(limits: GrammarLimits) -> None:
    """Answers a line per line, until its input ends."""
    tokenizer = LLTokenizer("byte")
    limit_memory(limits.trial_bytes)
    _say({})
    for line in sys.stdin.buffer:
        _say({"refused": refusal(tokenizer, orjson.loads(line), limits)})


def _say(answer: dict[str, str | None]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


def limit_memory(num_bytes: int) -> None:
    """To what this process has and `num_bytes` more, where the system can (Linux)."""
    if sys.platform != "linux":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    serve(GrammarLimits(**orjson.loads(sys.argv[1])))
