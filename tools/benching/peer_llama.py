"""Runs workloads on llama.cpp's own benchmarks; knows their options and outputs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .measuring import Workload

Rates = dict[Workload, float]  # tokens per second of all requests


def llama_bench(binary: Path, checkpoint: Path, threads: int, workloads: Sequence[Workload]) -> Rates:
    """One repetition of workloads with one request each, after llama-bench's own warm-up."""
    return {workload: _alone(binary, checkpoint, threads, workload) for workload in workloads}


def _alone(binary: Path, checkpoint: Path, threads: int, workload: Workload) -> float:
    asked = (workload.num_tokens, 0) if workload.kind == "pp" else (0, workload.num_tokens)
    command = [binary, "-m", checkpoint, "-t", threads, "-p", asked[0], "-n", asked[1], "-d", workload.depth]
    [record] = json.loads(output_of([*command, "-r", 1, "-o", "json"]))
    return float(record["avg_ts"])


def llama_batched_bench(binary: Path, checkpoint: Path, threads: int, workloads: Sequence[Workload]) -> Rates:
    """Workloads with several requests, each with a prompt of its own of `depth` tokens."""
    return {workload: _batched(binary, checkpoint, threads, workload) for workload in workloads}


def _batched(binary: Path, checkpoint: Path, threads: int, workload: Workload) -> float:
    # Each sequence gets an equal part of the context, which is rounded up to 256 tokens.
    context = workload.concurrency * -(-(workload.depth + workload.num_tokens) // 256) * 256
    shape = ["-npp", max(1, workload.depth), "-ntg", workload.num_tokens, "-npl", workload.concurrency]
    command = [binary, "-m", checkpoint, "-t", threads, "-tb", threads, "-c", context, "-b", 2048, "-ub", 512, *shape]
    lines = output_of([*command, "--output-format", "jsonl"]).splitlines()
    [record] = [json.loads(line) for line in lines if line.startswith("{")]
    return float(record["speed_tg"])


def output_of(command: Sequence[Any], job: str | None = None, env: dict[str, str] | None = None) -> str:
    """Standard output of a peer, whose libraries may lie beside it. Raises ClickException when it fails."""
    words = [str(word) for word in command]
    folder = str(Path(words[0]).parent)
    paths = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
    try:
        done = subprocess.run(
            words, input=job, capture_output=True, text=True, env=os.environ | {"LD_LIBRARY_PATH": paths} | (env or {})
        )
    except OSError as error:
        raise click.ClickException(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        raise click.ClickException(f"{words[0]} {_end(done.returncode)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _end(code: int) -> str:
    """What a process that failed came to; builds for another processor end by a signal without a word."""
    if code == -signal.SIGILL:
        return "has instructions that this processor lacks: build it for this machine"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
