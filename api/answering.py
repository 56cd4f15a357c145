"""The way of one prompt through the engine: its answers while they grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue

from mistralrs_onnx.runtime.engine import Engine, Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.logprobs import TokenLogprobs, mean_logprob
from mistralrs_onnx.runtime.request import Request

from .jobs import Job
from .outputs import CompletionOutput, FinishReason, Logprob, Logprobs, RequestOutput
from .sampling_params import RequestOutputKind

Spell = Callable[[int], bytes]


def closed() -> RequestError:
    return RequestError("the model is closed: load it again", status=503, code="closed")


class Answer:
    """One answer, as it comes. `spell`: the bytes of a token, for log probabilities; None where none are told."""

    def __init__(self, index: int, spell: Spell | None) -> None:
        self.index = index
        self._spell = spell
        self.last: Output | None = None
        self._text = ""
        self._token_ids: list[int] = []
        self._scores: list[TokenLogprobs] = []
        self._logprobs: list[Logprobs] = []
        self._told = (0, 0, False)  # characters and tokens of earlier outputs, and whether they had the end

    def add(self, output: Output) -> None:
        self.last = output
        self._text += output.text
        self._token_ids += output.token_ids
        self._scores += output.logprobs
        if self._spell is not None:
            self._logprobs += [told(score, self._spell) for score in output.logprobs]

    @property
    def has_news(self) -> bool:
        return self._told != self._state

    @property
    def _state(self) -> tuple[int, int, bool]:
        return len(self._text), len(self._token_ids), _reason(self.last) is not None

    @property
    def mean_logprob(self) -> float:
        return mean_logprob(self._scores)

    def take(self, index: int, *, delta: bool = False) -> CompletionOutput:
        """All of it, or what is new."""
        is_scored = self._spell is not None
        text, tokens, _ = self._told if delta else (0, 0, False)
        self._told = self._state
        return CompletionOutput(
            index,
            self._text[text:],
            tuple(self._token_ids[tokens:]),
            sum(score.logprob for score in self._scores) if is_scored else None,
            tuple(self._logprobs[tokens:]) if is_scored else None,
            _reason(self.last),
            None if self.last is None else self.last.stop_reason,
        )


def told(score: TokenLogprobs, spell: Spell) -> Logprobs:
    def entry(token_id: int, logprob: float, rank: int | None) -> Logprob:
        return Logprob(logprob, rank, spell(token_id).decode(errors="replace"))

    drawn = {score.token_id: entry(score.token_id, score.logprob, None)}
    return drawn | {each.token_id: entry(*each, rank) for rank, each in enumerate(score.top, 1)}


def _reason(output: Output | None) -> FinishReason | None:
    reason = None if output is None else output.finish_reason
    return reason if reason in ("stop", "length", None) else "abort"


class Answering:
    """The requests of a job, and what they have brought. Its owner calls all of it, in one thread or another."""

    def __init__(self, engine: Engine, job: Job, request_id: str, spell: Spell) -> None:
        self.request_id = request_id
        self._engine = engine
        self._job = job
        self._spell = spell
        wanted = None if job.params.logprobs is None else spell
        self._answers = [Answer(index, wanted) for index in range(len(job.draws))]
        self._requests: list[Request] = []
        self._prompt_ids: tuple[int, ...] = ()  # what is read of it
        self._prompt_logprobs: tuple[Logprobs | None, ...] | None = None

    def submit(self, sink: Callable[[int, Output], None]) -> None:
        """The engine's thread gives outputs to `sink`, each for `add`. Raises RequestError, and then nothing runs."""
        prompt, params = self._job.prompt, self._job.params
        try:
            for index, draw in enumerate(self._job.draws):
                request = self._engine.submit(
                    prompt.token_ids,
                    draw,
                    partial(sink, index),
                    prompt.cache_scope,
                    self._job.adapter,
                    parent=self._requests[0] if index else None,
                    grammar=self._job.grammar,
                    prompt_logprobs=None if index else params.prompt_logprobs,
                    truncate=True if params.truncate_prompt_tokens == -1 else None,
                )
                self._requests.append(request)
            self._prompt_ids = tuple(self._requests[0].prompt_ids.tolist())
        except BaseException as error:
            self.cancel()
            if isinstance(error, RequestError) and error.code == "draining":
                raise closed() from error
            raise

    def cancel(self) -> None:
        for request in self._requests:
            self._engine.cancel(request)

    def add(self, index: int, output: Output) -> None:
        """Raises RequestError when the answer failed."""
        if output.error is not None:
            raise output.error
        self._answers[index].add(output)

    @property
    def is_finished(self) -> bool:
        return all(_reason(answer.last) is not None for answer in self._answers)

    def take(self) -> RequestOutput | None:
        """What there is to tell of now. None: nothing yet, as where the best answers are still to be found."""
        params = self._job.params
        if params.output_kind is RequestOutputKind.FINAL_ONLY or params.num_drawn > params.n:
            return self.whole() if self.is_finished else None
        if params.output_kind is RequestOutputKind.CUMULATIVE:
            return self.whole()
        news = [answer.take(answer.index, delta=True) for answer in self._answers if answer.has_news]
        return self._output(news) if news else None

    def whole(self) -> RequestOutput:
        """All that has come."""
        params = self._job.params
        answers = self._best() if params.num_drawn > params.n else self._answers
        return self._output([answer.take(index) for index, answer in enumerate(answers)])

    def _output(self, outputs: Sequence[CompletionOutput]) -> RequestOutput:
        adapter = self._job.adapter
        return RequestOutput(
            self.request_id,
            self._job.prompt.text,
            self._prompt_ids,
            self._scored_prompt(),
            tuple(outputs),
            self.is_finished,
            None if adapter is None else adapter.name,
            self._requests[0].num_cached,
        )

    def _best(self) -> list[Answer]:
        return sorted(self._answers, key=lambda answer: -answer.mean_logprob)[: self._job.params.n]

    def _scored_prompt(self) -> tuple[Logprobs | None, ...] | None:
        request = self._requests[0]
        if self._prompt_logprobs is None and request.prompt_logprobs is not None and not request.lacks_scores:
            scores = request.prompt_logprobs
            self._prompt_logprobs = tuple(None if each is None else told(each, self._spell) for each in scores)
        return self._prompt_logprobs


def stream(answering: Answering) -> Iterator[RequestOutput]:
    """Outputs as they come; closing the iterator cancels. Raises RequestError."""
    outputs: SimpleQueue[tuple[int, Output]] = SimpleQueue()
    answering.submit(lambda index, output: outputs.put((index, output)))
    try:
        while not answering.is_finished:
            answering.add(*outputs.get())
            found = answering.take()
            if found is not None:
                yield found
    finally:
        answering.cancel()
