"""Compiles grammars beside the engine, within limits, and keeps them for the requests that ask for the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.errors import RequestError

from .limits import DEFAULT_LIMITS, GrammarLimits
from .matcher import Matcher
from .source import invalid, to_llguidance
from .spec import GrammarSpec
from .trial import TrialProcesses
from .vocabulary import make_ll_tokenizer

# What llguidance keeps of a grammar and of some hundred tokens: 90 KiB of small ones, 78 bytes per character of a large
# schema. It does not tell; lexers of odd expressions grow further, by up to GrammarLimits.max_lexer_states.
BYTES_PER_GRAMMAR = 64 * 1024
BYTES_PER_CHARACTER = 128


class Grammar:
    """A compiled grammar. Its matchers share one lexer, which learns from all of them; one that fails it gets its own.

    `is_spoilt` once the shared lexer reached a limit: matchers go on with lexers of their own, new requests compile.
    """

    def __init__(self, tokenizer: LLTokenizer, source: str, limits: LLParserLimits) -> None:
        self._tokenizer, self._source, self._limits = tokenizer, source, limits
        self._prototype = self.fresh()
        self.is_spoilt = False
        self.num_bytes = BYTES_PER_GRAMMAR + BYTES_PER_CHARACTER * len(source)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def eos_token_ids(self) -> list[int]:
        return self._tokenizer.eos_tokens

    def matcher(self) -> Matcher:
        return Matcher(self)

    def shared(self) -> LLMatcher:
        return self._prototype.deep_copy()

    def fresh(self) -> LLMatcher:
        """With a lexer of its own."""
        return LLMatcher(self._tokenizer, self._source, limits=self._limits, log_level=0)


class GrammarCache:
    """The grammars used last, bounded by count and by estimated bytes. Callers hold the lock."""

    def __init__(self, limits: GrammarLimits) -> None:
        self._limits = limits
        self._grammars: OrderedDict[GrammarSpec, Grammar] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._grammars)

    def get(self, spec: GrammarSpec) -> Grammar | None:
        grammar = self._grammars.get(spec)
        if grammar is not None and grammar.is_spoilt:
            self._drop(spec)
            return None
        if grammar is not None:
            self._grammars.move_to_end(spec)
        return grammar

    def put(self, spec: GrammarSpec, grammar: Grammar) -> None:
        if spec in self._grammars:
            self._drop(spec)
        self._grammars[spec] = grammar
        self.num_bytes += grammar.num_bytes
        while len(self._grammars) > self._limits.cached_grammars or self.num_bytes > self._limits.cached_bytes:
            self._drop(next(iter(self._grammars)))

    def _drop(self, spec: GrammarSpec) -> None:
        self.num_bytes -= self._grammars.pop(spec).num_bytes


class GrammarCompiler:
    """Compiles for one model. Safe to call from any thread, never from the engine's: `compile` waits."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_token_ids: Iterable[int],
        limits: GrammarLimits = DEFAULT_LIMITS,
    ) -> None:
        """`vocab_size`: columns of the logits, which may be more than the tokenizer's tokens."""
        self._tokenizer, self._vocab_size, self._eos_token_ids = tokenizer, vocab_size, tuple(eos_token_ids)
        self._limits = limits
        self._lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._ll_tokenizer: LLTokenizer | None = None
        self._cache = GrammarCache(limits)
        self._running: dict[GrammarSpec, Future[Grammar]] = {}
        self._trials = TrialProcesses(limits)
        self._workers = ThreadPoolExecutor(limits.num_workers, thread_name_prefix="grammar")

    def compile(self, spec: GrammarSpec) -> Grammar:
        """Raises RequestError: invalid_grammar with the reason, or a busy 503. The first call takes a second more."""
        tokenizer = self.prepare()
        with self._lock:
            if (grammar := self._cache.get(spec)) is not None:
                return grammar
            future = self._running.get(spec) or self._start(spec, tokenizer)
        try:
            return future.result(self._limits.compile_seconds)
        except TimeoutError:
            raise _busy() from None
        except RequestError as error:  # one object for all that wait, who may have sent it in other fields
            raise RequestError(str(error), status=error.status, code=error.code, param=spec.param) from None

    def prepare(self) -> LLTokenizer:
        """Reads the vocabulary, which `compile` would do at its first call."""
        with self._tokenizer_lock:
            if self._ll_tokenizer is None:
                self._ll_tokenizer = make_ll_tokenizer(self._tokenizer, self._vocab_size, self._eos_token_ids)
            return self._ll_tokenizer

    def close(self) -> None:
        """Waits for no grammar."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._trials.close()

    @property
    def num_cached(self) -> int:
        with self._lock:
            return len(self._cache)

    def _start(self, spec: GrammarSpec, tokenizer: LLTokenizer) -> Future[Grammar]:
        if len(self._running) >= self._limits.max_waiting:
            raise _busy()
        self._running[spec] = future = self._workers.submit(self._compile, spec, tokenizer)
        return future

    def _compile(self, spec: GrammarSpec, tokenizer: LLTokenizer) -> Grammar:
        try:
            source = to_llguidance(spec)
            if (reason := self._trials.run(source)) is not None:
                raise invalid(spec, reason)
            grammar = Grammar(tokenizer, source, self._limits.for_llguidance())
        except BaseException:
            self._settle(spec, None)
            raise
        self._settle(spec, grammar)
        return grammar

    def _settle(self, spec: GrammarSpec, grammar: Grammar | None) -> None:
        with self._lock:
            self._running.pop(spec, None)
            if grammar is not None:
                self._cache.put(spec, grammar)


def _busy() -> RequestError:
    """The trial would have found the grammar's own fault by now."""
    return RequestError("Too many grammars are being compiled: try again soon.", status=503, code="grammar_busy")
