"""How answers are drawn, under vLLM's names and with its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.generation import Defaults
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec, read_spec
from mistralrs_onnx.runtime.sampling import MAX_LOGPROBS
from mistralrs_onnx.runtime.sampling import SamplingParams as Draw

from .bad_words import Encoder, word_tokens

UNSUPPORTED = {  # what each may only be, and why
    "detokenize": (True, "answers are always told as text too"),
    "skip_special_tokens": (True, "special tokens are no part of the text: read them from token_ids"),
    "spaces_between_special_tokens": (True, "special tokens are no part of the text"),
    "logits_processors": (None, "no Python runs between the tokens: see logit_bias, bad_words and structured_outputs"),
    "extra_args": (None, "nothing here reads them"),
}


class RequestOutputKind(Enum):
    """What each of several outputs to a request holds: all until then, what is new, or there is only the last."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """What the answer keeps to: one of these. `grammar` is Lark or GBNF; `json` a schema, as its text or an object."""

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """Raises RequestError for values out of range; what is changed later is looked at when it is used.

    Beside vLLM's: `typical_p`, the `dry_*`, `repeat_last_n` (of prompt and answer, the last tokens that
    `repetition_penalty` looks at; 0: all; None: as the model was loaded, or all) and `grammar`, which is mistral.rs'
    {"type": ..., "value": ...}.
    `best_of` answers are drawn and the `n` with the best mean log probability kept, best first; with a `seed`, answer i
    is drawn with seed + i. `logprobs` and `prompt_logprobs`: alternatives that are told with each token, up to 20.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 and -1: all
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int | None = None
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: Sequence[str | int] = ("\n", ":", '"', "*")
    dry_range: int = 0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # and none behind the end of the context; None: up to there
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    structured_outputs: StructuredOutputsParams | Mapping[str, Any] | None = None
    grammar: Mapping[str, Any] | None = None
    truncate_prompt_tokens: int | None = None  # the last so many are read; -1: as many as fit
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logits_processors: None = None
    extra_args: None = None

    def __post_init__(self) -> None:
        self.draw()
        self.spec()

    @property
    def num_drawn(self) -> int:
        return self.n if self.best_of is None else self.best_of

    def draws(self, encoder: Encoder, defaults: Defaults) -> list[Draw]:
        """Of each answer to a prompt. `defaults`: of the model. Raises RequestError."""
        last_n = defaults.get("repeat_last_n", 0) if self.repeat_last_n is None else self.repeat_last_n
        draw = replace(self.draw(word_tokens(self.bad_words or (), encoder)), repeat_last_n=last_n)
        seeds = [None if self.seed is None else self.seed + i for i in range(self.num_drawn)]
        return [replace(draw, seed=seed) for seed in seeds]

    def draw(self, bad_words: tuple[tuple[int, ...], ...] = ()) -> Draw:
        """As the engine knows it. Raises RequestError."""
        self._check()
        ranks = self.num_drawn > self.n and self.logprobs is None
        allowed = self.allowed_token_ids
        return Draw(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repeat_last_n=self.repeat_last_n or 0,
            dry_multiplier=self.dry_multiplier,
            dry_base=self.dry_base,
            dry_allowed_length=self.dry_allowed_length,
            dry_sequence_breakers=tuple(self.dry_sequence_breakers),
            dry_range=self.dry_range,
            logit_bias=dict(self.logit_bias or {}),
            allowed_token_ids=None if allowed is None else frozenset(allowed),
            bad_words=bad_words,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            include_stop_str_in_output=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            logprobs=0 if ranks else self.logprobs,
        )

    def spec(self) -> GrammarSpec | None:
        """What the answer keeps to. Raises RequestError."""
        wanted = self.structured_outputs
        if isinstance(wanted, StructuredOutputsParams):
            wanted = {
                "json": wanted.json,
                "regex": wanted.regex,
                "choice": wanted.choice,
                "grammar": wanted.grammar,
                "json_object": wanted.json_object,
            }
        return read_spec({"structured_outputs": wanted, "grammar": self.grammar})

    def _check(self) -> None:
        for name, (allowed, reason) in UNSUPPORTED.items():
            if getattr(self, name) is not allowed:
                raise _refused(name, f"can only be {allowed}: {reason}", code="unsupported_parameter")
        _check_integer("n", self.n, 1)
        if self.best_of is not None:
            _check_integer("best_of", self.best_of, self.n)
        if self.truncate_prompt_tokens not in (None, -1):
            _check_integer("truncate_prompt_tokens", self.truncate_prompt_tokens, 1)
        if self.prompt_logprobs is not None:
            _check_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if isinstance(self.bad_words, str) or not all(isinstance(word, str) and word for word in self.bad_words or ()):
            raise _refused("bad_words", f"must be a list of texts, got {self.bad_words!r:.64}")


def _check_integer(name: str, value: Any, low: int, high: int = 2**31) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _refused(name, f"must be an integer from {low} to {high}, got {value!r:.64}")


def _refused(name: str, message: str, code: str = "invalid_value") -> RequestError:
    return RequestError(f"{name} {message}", code=code, param=name)
