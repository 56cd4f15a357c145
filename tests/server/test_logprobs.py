"""Log probabilities in OpenAI's words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mistralrs_onnx.runtime.logprobs import LEAST, TokenLogprob, TokenLogprobs
from mistralrs_onnx.server.logprobs import ChatLogprobs, PromptWriter, TextLogprobs, with_fewer

TOKENS = {0: b"<s>", 1: b" the", 2: b"\xf0\x9f", 3: b"\xa6\x9c", 4: b"x"}


@dataclass
class Tokens:
    special_ids: frozenset[int] = frozenset([0])
    strips_space: bool = False

    def __call__(self, token_id: int) -> bytes:
        return TOKENS[token_id]


def score(token_id: int, logprob: float, *top: tuple[int, float]) -> TokenLogprobs:
    return TokenLogprobs(token_id, logprob, tuple(TokenLogprob(*each) for each in top))


def test_a_chat_tells_tokens_bytes_and_alternatives() -> None:
    writer = ChatLogprobs(Tokens())
    writer.add([score(2, -1.0, (4, -0.5), (2, -1.0))])
    part = {"token": "bytes:\\xf0\\x9f", "logprob": -1.0, "bytes": [0xF0, 0x9F]}
    other = {"token": "x", "logprob": -0.5, "bytes": [0x78]}
    assert writer.take() == {"content": [{**part, "top_logprobs": [other, part]}], "refusal": None}
    assert writer.take()["content"] == []


def test_offsets_count_whole_characters_and_no_special_tokens() -> None:
    writer = TextLogprobs(Tokens())
    writer.add([score(1, -1.0), score(2, -1.0), score(3, -1.0), score(4, -1.0), score(0, -1.0)])
    told = writer.take()
    assert told["text_offset"] == [0, 4, 4, 5, 6]  # of " the🦜x"
    assert told["tokens"] == [" the", "bytes:\\xf0\\x9f", "bytes:\\xa6\\x9c", "x", "<s>"]


def test_offsets_where_a_text_begins_without_its_space() -> None:
    writer = TextLogprobs(Tokens(strips_space=True))
    writer.add([score(0, -1.0), score(1, -1.0), score(1, -1.0), score(4, -1.0)])
    assert writer.take()["text_offset"] == [0, 0, 3, 7]  # of "the thex"


def test_alternatives_of_a_text_include_the_token_itself() -> None:
    writer = TextLogprobs(Tokens())
    writer.add([score(4, -3.0, (1, -0.1)), score(4, -math.inf)])
    told = writer.take()
    assert told["top_logprobs"] == [{" the": -0.1, "x": -3.0}, {"x": LEAST}]
    assert told["token_logprobs"] == [-3.0, LEAST]


def test_a_prompt_begins_with_a_token_of_which_nothing_is_known() -> None:
    """The tokenizer put a special token and a space before the text."""
    writer = TextLogprobs(Tokens())
    writer.add_prompt("thex", [0, 1, 4], [None, score(1, -1.0), score(4, -2.0)])
    writer.add([score(4, -0.5)])
    told = writer.take()
    assert told["text_offset"] == [0, 0, 3, 4]
    assert told["token_logprobs"] == [None, -1.0, -2.0, -0.5]
    assert told["top_logprobs"][0] is None


def test_a_special_token_that_was_asked_for_is_part_of_the_prompt() -> None:
    writer = TextLogprobs(Tokens())
    writer.add_prompt("<s> thex", [0, 1, 4], [None, score(1, -1.0), score(4, -2.0)])
    assert writer.take()["text_offset"] == [0, 3, 7]


def test_a_prompt_is_told_as_vllm_has_it() -> None:
    """The token itself, with its rank, and the likeliest."""
    seen = score(4, -3.0, (1, -0.1), (2, -1.5))._replace(rank=7)
    likely = score(1, -0.1, (1, -0.1), (4, -2.0))._replace(rank=1)
    assert PromptWriter(Tokens(), 1).told([None, seen, likely]) == [
        None,
        {
            "4": {"logprob": -3.0, "rank": 7, "decoded_token": "x"},
            "1": {"logprob": -0.1, "rank": 1, "decoded_token": " the"},
        },
        {"1": {"logprob": -0.1, "rank": 1, "decoded_token": " the"}},
    ]
    half = PromptWriter(Tokens(), 2).told([seen])[0]
    assert half is not None
    assert half["2"] == {"logprob": -1.5, "rank": 2, "decoded_token": "\N{REPLACEMENT CHARACTER}"}


def test_alternatives_that_another_asked_for_are_left_out() -> None:
    assert with_fewer([None, score(4, -3.0, (1, -0.1), (2, -1.5))], 1) == [None, score(4, -3.0, (1, -0.1))]
