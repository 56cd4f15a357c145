"""Runs requests on a thread of its own: schedule, run, sample, commit; knows no HTTP, no chat and no graph."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from .adapters import Adapter
from .answers import Answer, Output, Sink
from .choosing import Choosing, Owners
from .core import FinishReason, Logits, Runner
from .detokenizer import Vocabulary
from .engine_options import EngineOptions, checked_prompt, fitted, limits_of
from .errors import RequestError
from .logprobs import TokenLogprobs
from .outputs import outputs
from .request import Request, Usage
from .resolve import resolved
from .sampler import Sampler, failure
from .sampling import SamplingParams
from .scheduler import Scheduled, Scheduler
from .speculation import Speculation
from .stats import Counts, EngineStats, snapshot
from .uncached import Uncached
from .work_log import WorkLog

__all__ = ["Engine", "EngineOptions", "EngineStats", "Output", "Sink", "Usage"]

if TYPE_CHECKING:
    from .grammar.compiler import Grammar
    from .grammar.masks import MaskWorker

logger = logging.getLogger(__name__)


class Engine:
    """Any thread may submit and cancel; everything else happens on the engine's thread. No call waits for it."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        eos_token_ids: frozenset[int],
        context_length: int,
        options: EngineOptions,
        speculation: Speculation | None = None,
        mask_worker: MaskWorker | None = None,
        num_threads: int = 1,
    ) -> None:
        """`mask_worker`: for requests with grammars. `num_threads`: that look at logits between steps.

        Raises ValueError for options that contradict each other.
        """
        if not options.kv_cache:
            runner = Uncached(runner, num_slots=options.max_seqs, max_chunk=options.prefill_chunk)
        limits = limits_of(runner, context_length, options)
        self._max_model_len = limits.max_model_len
        self._truncates = options.truncate_sequence
        self._max_live = options.max_seqs + options.max_queue
        self._runner = runner
        self._vocabulary = Vocabulary(tokenizer)
        self._eos_token_ids = eos_token_ids
        self._scheduler = Scheduler(runner, limits)
        self._tokenizer = tokenizer
        self._shares_prompts = options.shares_prompts
        self._speculation = speculation
        self._mask_worker = mask_worker
        owners = Owners(
            self._tell,
            lambda request: self._end(request, "stop"),
            lambda request, error: self._end(request, "error", error),
        )
        self._choosing = Choosing(
            Sampler(eos_token_ids, num_threads), self._scheduler, owners, speculation, mask_worker
        )
        self._counts = Counts()
        self._log = WorkLog(self.stats)
        # Guarded by the condition: what other threads put in.
        self._wake = threading.Condition()
        self._live: dict[int, Answer] = {}
        self._arrived: list[Request] = []
        self._forks: list[Request] = []  # that wait for another to read their prompt; the engine thread's
        self._cancelled: list[Request] = []
        self._next_id = 0
        self._deadline: float | None = None  # closing: when what still runs is ended
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="mistralrs-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, drain: float = 0.0) -> None:
        """Refuses new requests, waits up to `drain` seconds for the others, then cancels them."""
        deadline = time.monotonic() + drain
        with self._wake:
            self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._take_in()
            self._end_all()
        if self._mask_worker is not None:
            self._mask_worker.close()

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Sink,
        cache_scope: tuple[str, ...] = (),
        adapter: Adapter | None = None,
        parent: Request | None = None,
        grammar: Grammar | None = None,
        prompt_logprobs: int | None = None,
        *,
        truncate: bool | None = None,
    ) -> Request:
        """`sink` gets outputs until one has a finish reason. `parent`: another request of the same prompt, which is
        read once for both. `grammar`: what the output keeps to. `prompt_logprobs`: how many alternatives to note with
        each token of the prompt, in `Request.prompt_logprobs`. `truncate`: whether a prompt that is too long loses its
        beginning; None as the engine was told. Raises RequestError 400, 429 or 503.
        """
        prompt = checked_prompt(prompt_ids, self._runner.vocab_size)
        if self._truncates if truncate is None else truncate:
            prompt = fitted(prompt, params.max_tokens, self._max_model_len)
        params = resolved(params, self._tokenizer, self._runner.vocab_size)
        max_len = self._checked_length(len(prompt), params.max_tokens)
        matcher = None if grammar is None else grammar.matcher()
        is_long, index = self._is_long(max_len), self._runner.tgt_non_granular_index
        seed = secrets.randbits(64) if params.seed is None else params.seed
        with self._wake:
            self._check_accepts()
            request = Request(
                self._next_id,
                prompt,
                params,
                max_len,
                seed,
                cache_scope,
                is_long,
                adapter,
                parent=parent if self._shares_prompts else None,
                last_granular=None if index is None else len(prompt) + index - 1,
                num_prompt_logprobs=prompt_logprobs,
                matcher=matcher,
                submitted_at=time.perf_counter(),
            )
            self._next_id += 1
            self._live[request.id] = Answer(request, sink, self._vocabulary, self._eos_token_ids)
            self._arrived.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: Request) -> None:
        """Frees what the request holds after the step that runs now; one that has finished is left alone."""
        with self._wake:
            if request.id in self._live:
                self._cancelled.append(request)
                self._wake.notify()

    def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, adapter: Adapter | None = None
    ) -> Iterator[Output]:
        """Outputs as they come; closing the iterator cancels. Raises RequestError."""
        return outputs(self, prompt_ids, params, adapter)

    def stats(self) -> EngineStats:
        """A snapshot; counts of a step in progress may be missing."""
        num_arriving = len(self._arrived) + len(self._forks)
        return snapshot(self._counts, self._scheduler, self._speculation, num_arriving)

    def _checked_length(self, num_prompt: int, max_tokens: int | None) -> int:
        """Where prompt and output together end."""
        room = self._max_model_len - num_prompt
        if room < (max_tokens or 1):
            message = (
                f"the context holds {self._max_model_len} tokens, the prompt has {num_prompt} and "
                f"{max_tokens or 'at least 1'} more are asked for: shorten the prompt, lower max_tokens, or have "
                "the beginning of long prompts cut off (truncate_sequence)"
            )
            raise RequestError(message, code="context_length_exceeded", param="max_tokens" if room > 0 else None)
        if max_tokens is None and not self._is_long(num_prompt + 1):
            return min(num_prompt + room, self._runner.rope_switch or self._max_model_len)
        return num_prompt + (room if max_tokens is None else max_tokens)

    def _is_long(self, num_tokens: int) -> bool:
        """Which positions a request gets is decided once: by how long it may become, or its prompt is."""
        return self._runner.rope_switch is not None and num_tokens > self._runner.rope_switch

    def _check_accepts(self) -> None:
        if self._has_failed:
            raise RequestError("the engine has failed: restart the server", status=503, code="engine_failed")
        if self._deadline is not None:
            raise RequestError("the server is shutting down: try another", status=503, code="draining")
        if len(self._live) >= self._max_live:
            self._counts.rejected += 1
            message = f"{len(self._live)} requests are running or waiting, which is all this server takes: try later"
            raise RequestError(message, status=429, code="queue_full")

    def _run(self) -> None:
        try:
            while self._receive():
                if self._scheduler.has_work:
                    self._step()
            self._end_all()
        except Exception:
            logger.exception("the engine failed: it refuses requests from now on")
            self._fail()

    def _receive(self) -> bool:
        """Waits until there is something to do; False when it is time to end."""
        if not self._scheduler.has_work:
            self._scheduler.check_integrity()
            self._log.rest()
        with self._wake:
            while not (self._arrived or self._scheduler.has_work or self._deadline is not None):
                self._wake.wait()
        self._take_in()
        return self._deadline is None or (bool(self._live) and time.monotonic() < self._deadline)

    def _take_in(self) -> None:
        with self._wake:
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
        for request in arrived:
            if request.waits_for_parent:
                self._forks.append(request)
            else:
                self._scheduler.add(request)
        for request in cancelled:
            self._end(request, "cancelled")
        self._join_forks()

    def _step(self) -> None:
        begun, before = time.perf_counter(), self._counts.run_seconds
        self._choosing.guess()
        scheduled = self._scheduler.schedule()
        self._counts.note_step(sum(item.num_tokens + len(item.draft) for item in scheduled))
        self._log.begin(scheduled)
        self._choosing.begin(scheduled)
        self._choosing.finish(scheduled, self._execute(scheduled))
        self._join_forks()
        seconds = time.perf_counter() - begun
        self._counts.other_seconds += seconds - (self._counts.run_seconds - before)
        self._log.end(seconds)

    def _join_forks(self) -> None:
        if self._forks:
            for request in [each for each in self._forks if not each.waits_for_parent]:
                self._forks.remove(request)
                self._scheduler.add(request)

    def _execute(self, scheduled: Sequence[Scheduled]) -> Logits | None:
        """None when the runner failed, which ends the requests of this step."""
        rows = [item.row for item in scheduled]
        begun = time.perf_counter()
        try:
            return self._runner.run(rows)
        except Exception:
            logger.exception("a step of %d requests failed", len(rows))
            for request, *_ in scheduled:
                self._end(request, "error", _internal_error("the model could not be run"))
            return None
        finally:
            seconds = time.perf_counter() - begun
            self._counts.run_seconds += seconds
            if self._speculation is not None and all(item.num_tokens == 1 for item in scheduled):
                self._speculation.note_step(sum(len(row.token_ids) for row in rows), seconds)

    def _tell(self, request: Request, token_id: int, logprobs: TokenLogprobs | None) -> None:
        """Gives the owner what a token brought."""
        error = failure(token_id)
        if error is not None:
            return self._end(request, "error", error)
        self._counts.note_token(request, time.perf_counter())
        answer = self._live[request.id]
        output = answer.push(logprobs)
        if output is not None:
            self._deliver(answer, output)
        return None

    def _end(self, request: Request, reason: FinishReason, error: RequestError | None = None) -> None:
        answer = self._live.get(request.id)
        if answer is not None:
            self._deliver(answer, answer.end(reason, error=error))

    def _deliver(self, answer: Answer, output: Output) -> None:
        if output.finish_reason is not None:
            self._free(answer.request, output.finish_reason, output.error)
        try:
            answer.sink(output)
        except Exception:
            logger.exception("the sink of request %d failed: the request is cancelled", answer.request.id)
            if output.finish_reason is None:
                self._free(answer.request, "cancelled")

    def _free(self, request: Request, reason: FinishReason, error: RequestError | None = None) -> None:
        self._note_end(request, reason, error)
        if request in self._forks:
            self._forks.remove(request)
        else:
            self._scheduler.remove(request, forget=reason == "error")
        if self._speculation is not None:
            self._speculation.forget([request])
        with self._wake:
            del self._live[request.id]

    def _note_end(self, request: Request, reason: FinishReason, error: RequestError | None) -> None:
        request.finish_reason, request.finished_at = reason, time.perf_counter()
        self._counts.note_end(request, error)

    def _end_all(self) -> None:
        for answer in list(self._live.values()):
            self._end(answer.request, "cancelled")
        self._scheduler.check_integrity()

    def _fail(self) -> None:
        """Tells every owner; slots stay as they are, for nothing will use them again."""
        with self._wake:
            self._has_failed = True
            live, self._live, self._arrived = self._live, {}, []
        error = _internal_error("the engine has failed")
        for answer in live.values():
            self._note_end(answer.request, "error", error)
            try:
                answer.sink(Output("", (), "error", error=error))
            except Exception:
                logger.exception("the sink of request %d failed", answer.request.id)


def _internal_error(message: str) -> RequestError:
    return RequestError(f"{message}: the log of the server says more", status=500, code="internal_error")
