"""Runs workloads on onnxruntime-genai, over our own package: a script for a process of its own.

Reads a job as JSON from standard input, writes the tokens per second of each workload, of all requests, as the last
line of standard output.
"""

from __future__ import annotations

import importlib
import json
import sys
from time import perf_counter
from typing import Any

import numpy as np


class Peer:
    """A loaded package."""

    def __init__(self, folder: str, threads: int, vocab_size: int) -> None:
        self._genai: Any = importlib.import_module("onnxruntime_genai")  # not among our dependencies
        config = self._genai.Config(folder)
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = self._genai.Model(config)
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng()

    def rate(self, workload: dict[str, Any]) -> float:
        depth, num_tokens, width = workload["depth"], workload["num_tokens"], workload["concurrency"]
        generator = self._generator(depth + num_tokens + 2, width)
        if workload["kind"] == "pp":
            if depth:
                generator.append_tokens(self._prompts(depth, width))
            return float(width * num_tokens) / self._seconds_to_read(generator, num_tokens, width)
        generator.append_tokens(self._prompts(depth + 1, width))
        generator.generate_next_token()
        begun = perf_counter()
        for _ in range(num_tokens):
            generator.generate_next_token()
        return float(width * num_tokens / (perf_counter() - begun))

    def warm_up(self) -> None:
        self.rate({"kind": "tg", "num_tokens": 2, "depth": 16, "concurrency": 1})

    def _generator(self, max_length: int, width: int) -> Any:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=max_length, min_length=max_length, do_sample=False, batch_size=width)
        return self._genai.Generator(self._model, params)

    def _seconds_to_read(self, generator: Any, num_tokens: int, width: int) -> float:
        prompts = self._prompts(num_tokens, width)
        begun = perf_counter()
        generator.append_tokens(prompts)
        generator.generate_next_token()
        return perf_counter() - begun

    def _prompts(self, num_tokens: int, width: int) -> Any:
        return self._rng.integers(0, self._vocab_size, (width, num_tokens)).astype(np.int32)


def main() -> None:
    job = json.load(sys.stdin)
    peer = Peer(job["folder"], job["threads"], job["vocab_size"])
    peer.warm_up()
    rates = [peer.rate(workload) for workload in job["workloads"]]
    sys.stdout.write("\n" + json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
