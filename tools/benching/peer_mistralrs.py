"""Runs workloads on the `mistralrs` Python package: a script for that package's own interpreter, not for ours.

Reads a job as JSON from standard input, writes the tokens per second of each workload as the last line of standard
output. Rates are of the wall clock over streams: prefill until the first chunk, decoding from the moment that every
request has its first chunk to the last chunk of all.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class Stream:
    """When chunks of one answer came; each carries a token."""

    times: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    failure: Exception | None = None

    def read(self, chunks: Iterator[Any]) -> None:
        try:
            for chunk in chunks:
                self.times.append(perf_counter())
                if chunk.usage is not None:
                    self.prompt_tokens = chunk.usage.prompt_tokens
        except ValueError as error:
            self.failure = error


class Peer:
    """A loaded model. `words` are one token each; the chat template adds `num_template` around them."""

    def __init__(self, folder: str, file: str, words: Sequence[str]) -> None:
        self._mistralrs: Any = importlib.import_module("mistralrs")  # not among our dependencies
        which = self._mistralrs.Which.GGUF(folder, file)
        self._runner = self._mistralrs.Runner(which, max_seqs=16, prefix_cache_n=0, token_source="none")
        self._words = words
        self._num_template = 0
        self._num_template = self.run([16], 2)[1][0].prompt_tokens - 16

    def run(self, lengths: Sequence[int], max_tokens: int) -> tuple[float, list[Stream]]:
        """When the requests were sent, and what came of them."""
        streams = [Stream() for _ in lengths]
        requests = [self._request(length, max_tokens) for length in lengths]
        begun = perf_counter()
        # The package lends its runner to one caller at a time, but not for as long as a stream is read.
        chunks = [self._runner.send_chat_completion_request(request) for request in requests]
        threads = [threading.Thread(target=s.read, args=(c,)) for s, c in zip(streams, chunks, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for stream in streams:
            if stream.failure is not None:
                raise stream.failure
        return begun, streams

    def _request(self, num_tokens: int, max_tokens: int) -> Any:
        text = "".join(random.choices(self._words, k=max(1, num_tokens - self._num_template)))
        return self._mistralrs.ChatCompletionRequest(
            messages=text, model="default", max_tokens=max_tokens, temperature=0.0, ignore_eos=True, stream=True
        )

    def rate(self, workload: dict[str, Any]) -> float | None:
        """None for prompts that go on from others, which streams of its own requests cannot time."""
        if workload["kind"] == "pp":
            if workload["depth"]:
                return None
            begun, [stream] = self.run([workload["num_tokens"]], 1)
            return stream.prompt_tokens / (stream.times[0] - begun)
        # Prompts of one length are read as a batch, which fails for GGUF models on the CPU: lengths differ by one.
        least = self._num_template + workload["concurrency"]
        lengths = [max(least, workload["depth"]) - i for i in range(workload["concurrency"])]
        _, streams = self.run(lengths, workload["num_tokens"] + 1)
        started, ended = max(s.times[0] for s in streams), max(s.times[-1] for s in streams)
        return sum(time > started for s in streams for time in s.times) / (ended - started)


def main() -> None:
    job = json.load(sys.stdin)
    peer = Peer(job["folder"], job["file"], job["words"])
    rates = [peer.rate(workload) for workload in job["workloads"]]
    sys.stdout.write("\n" + json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
