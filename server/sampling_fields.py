"""Fields of requests that say how tokens are drawn, when to stop, and what the output is to keep to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from mistralrs_onnx.runtime.grammar.spec import READERS, GrammarSpec, read_spec
from mistralrs_onnx.runtime.sampling import SamplingParams

MAX_BAD_WORDS = 128

TokenSequences = tuple[tuple[int, ...], ...]


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def as_logit_bias(value: Any) -> dict[int, float] | None:
    """From JSON, whose keys are strings. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"token ids and what to add to their logits are needed, got {type(value).__name__}")
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise ValueError(f"keys must be token ids, got {key!r:.64}")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise ValueError(f"biases must be numbers, got {bias!r:.64}")
    return {int(key): bias for key, bias in value.items()}


StopText = Annotated[str, Field(min_length=1, max_length=256)]
StopTexts = Annotated[list[StopText], Field(max_length=16)]
BadWord = Annotated[str, Field(min_length=1, max_length=256)]

PLAIN_FIELDS = (  # of the same name in SamplingParams
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_range",
    "min_tokens",
    "seed",
    "ignore_eos",
    "include_stop_str_in_output",
)


class Sampling(BaseModel):
    """None stands for the default everywhere."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: list[str] | None = Field(None, max_length=64)
    dry_range: int | None = None
    logit_bias: Annotated[dict[int, float] | None, PlainValidator(as_logit_bias)] = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[BadWord] | None = Field(None, max_length=MAX_BAD_WORDS)
    seed: int | None = None
    min_tokens: int | None = None
    stop: Annotated[StopTexts | None, BeforeValidator(as_list)] = None
    stop_token_ids: list[int] | None = Field(None, max_length=256)
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to tell of with each token; None: tell of no probabilities."""
        return None

    def sampling_params(
        self, max_tokens: int | None, defaults: Mapping[str, Any], bad_words: TokenSequences = ()
    ) -> SamplingParams:
        """`defaults`: of what is not asked. Raises RequestError for a value that is out of range."""
        asked: dict[str, Any] = {name: getattr(self, name) for name in PLAIN_FIELDS}
        asked |= {
            "stop": None if self.stop is None else tuple(self.stop),
            "stop_token_ids": None if self.stop_token_ids is None else frozenset(self.stop_token_ids),
            "dry_sequence_breakers": None if self.dry_sequence_breakers is None else tuple(self.dry_sequence_breakers),
            "allowed_token_ids": None if self.allowed_token_ids is None else frozenset(self.allowed_token_ids),
            "logit_bias": None if self.logit_bias is None else {**defaults.get("logit_bias", {}), **self.logit_bias},
            "bad_words": bad_words or None,
            "logprobs": self.num_logprobs,
        }
        said = {key: value for key, value in asked.items() if value is not None}
        return SamplingParams(max_tokens=max_tokens, **{**defaults, **said})


class Constraints(BaseModel):
    """What the output keeps to, at most one of them; their forms are those of `runtime/grammar/spec.py`."""

    grammar: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    def spec(self) -> GrammarSpec | None:
        """Raises RequestError for what is malformed, and for more than one."""
        return read_spec({name: getattr(self, name) for name in READERS})
