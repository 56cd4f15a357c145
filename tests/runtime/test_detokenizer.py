"""Pieces of text add up to the whole, and neither half characters nor stop strings get out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from mistralrs_onnx.runtime.detokenizer import UNKNOWN, WINDOW, Detokenizer, StopStrings, Vocabulary


def pieces(vocabulary: Vocabulary, token_ids: list[int]) -> list[str]:
    stream = Detokenizer(vocabulary)
    return [*(stream.push(i) for i in token_ids), stream.flush()]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_pieces_add_up_to_the_whole(data: st.DataObject, tokenizer: Tokenizer) -> None:
    """Ids of single bytes most of the time, so that characters are cut in every way."""
    some = st.one_of(
        st.integers(0, 299), st.sampled_from(_byte_ids(tokenizer, b"\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\xff"))
    )
    token_ids = data.draw(st.lists(some, max_size=150))
    assert "".join(pieces(Vocabulary(tokenizer), token_ids)) == tokenizer.decode(token_ids, skip_special_tokens=True)


@given(text=st.text(max_size=60))
def test_text_comes_without_half_characters(text: str, tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    streamed = pieces(Vocabulary(tokenizer), token_ids)
    assert "".join(streamed) == text
    assert all(piece in text for piece in streamed)


def test_a_character_waits_for_its_last_byte(tokenizer: Tokenizer) -> None:
    euro = _byte_ids(tokenizer, "€".encode())
    assert pieces(Vocabulary(tokenizer), euro) == ["", "", "€", ""]
    assert pieces(Vocabulary(tokenizer), euro[:2]) == ["", "", UNKNOWN]


def test_a_special_token_inside_a_character_does_not_matter(tokenizer: Tokenizer) -> None:
    first, *rest = _byte_ids(tokenizer, "€".encode())
    end = tokenizer.token_to_id("<|end|>")
    assert "".join(pieces(Vocabulary(tokenizer), [first] + [end] * 100 + rest)) == "€"


def test_marks_of_calls_and_thoughts_stay_in_the_text(tokenizer: Tokenizer) -> None:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["[TOOL_CALLS]", "<|other|>"])
    vocabulary = Vocabulary(tokenizer)
    text = "Hi [TOOL_CALLS][TOOL_CALLS] f<|other|> {}[TOOL_CALLS]"
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(vocabulary, token_ids)) == text.replace("<|other|>", "")
    euro = _byte_ids(tokenizer, "€".encode())
    mark = tokenizer.token_to_id("[TOOL_CALLS]")
    assert pieces(vocabulary, [*euro[:2], mark, *euro]) == ["", "", UNKNOWN + "[TOOL_CALLS]", "", "", "€", ""]


def test_invalid_bytes_forever_neither_wait_nor_pile_up(tokenizer: Tokenizer) -> None:
    stream = Detokenizer(Vocabulary(tokenizer))
    bad = _byte_ids(tokenizer, b"\xff")[0]
    streamed = "".join(stream.push(bad) for _ in range(1000))
    assert len(streamed) >= 997
    assert len(stream._token_ids) <= WINDOW
    assert streamed + stream.flush() == UNKNOWN * 1000


def test_byte_fallback_waits_for_a_whole_character() -> None:
    tokens = ["<0xE2>", "<0x82>", "<0xAC>", "a"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert pieces(Vocabulary(tokenizer), [3, 0, 1, 2, 3]) == ["a", "", "", "€", "a", ""]


def test_spaces_that_a_decoder_strips_at_the_start_stay_inside() -> None:
    tokenizer = Tokenizer(models.BPE({"▁a": 0, "b": 1}, []))
    tokenizer.decoder = decoders.Metaspace()
    token_ids = [0, 0, 1] * 40
    assert "".join(pieces(Vocabulary(tokenizer), token_ids)) == tokenizer.decode(token_ids)


def test_a_stop_string_split_over_pieces_never_gets_out() -> None:
    stops = StopStrings(("STOP",))
    assert [stops.push(piece) for piece in ("go S", "TO", "P on")] == [("go ", None), ("", None), ("", "STOP")]


def test_what_was_no_stop_string_after_all_comes_out() -> None:
    stops = StopStrings(("\n\n",))
    assert [stops.push(piece).text for piece in ("a\n", "b", "\n")] == ["a", "\nb", ""]
    assert stops.flush() == "\n"


@pytest.mark.parametrize(("stops", "text", "before"), [(("cd", "b"), "abcd", "a"), (("aab",), "aaab", "a")])
def test_the_earliest_counts(stops: tuple[str, ...], text: str, before: str) -> None:
    assert StopStrings(stops).push(text).text == before


@settings(max_examples=300)
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    parts=st.lists(st.text("abc", max_size=3), max_size=30),
)
def test_streams_end_at_the_stop_that_is_whole_first(stops: list[str], parts: list[str]) -> None:
    stream, out = StopStrings(stops), ""
    for i, part in enumerate(parts):
        text, stop = stream.push(part)
        out += text
        whole = "".join(parts[: i + 1])
        if stop is not None:
            assert out == whole[: min(whole.find(s) for s in stops if s in whole)]
            return
        assert not any(s in whole for s in stops)
        assert not any(out.endswith(s[:n]) and whole[len(out) :] == "" for s in stops for n in range(1, len(s)))
    assert out + stream.flush() == "".join(parts)


def test_a_stop_string_may_be_part_of_the_text() -> None:
    stops = StopStrings(("STOP",), included=True)
    assert [stops.push(piece) for piece in ("go S", "TO", "P on")] == [("go ", None), ("", None), ("STOP", "STOP")]


def test_what_is_whole_before_it_counts_never_counts() -> None:
    """The first "ab" is whole too early, and so is the "b" inside what is held; the "abc" is whole in time."""
    stops = StopStrings(("ab", "b", "abc"))
    assert stops.push("x ab", armed=False) == ("x ", None)
    assert stops.push("c yab") == ("", "abc")
    late = StopStrings(("ab",))
    assert late.push("ab a", armed=False) == ("ab ", None)
    assert late.push("b") == ("", "ab")
    never = StopStrings(("ab",))
    assert never.push("ab", armed=False) == ("ab", None)
    assert never.push("c") == ("c", None)


@settings(max_examples=300)
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    parts=st.lists(st.text("abc", min_size=1, max_size=3), max_size=30),
    num_early=st.integers(0, 10),
    included=st.booleans(),
)
def test_of_stops_that_end_in_time_the_earliest_begun_cuts(
    stops: list[str], parts: list[str], num_early: int, included: bool
) -> None:
    """What has gone out cannot be cut, so a stop begun before is held back until it is whole or is none."""
    stream, out, before = StopStrings(stops, included=included), "", 0
    for i, part in enumerate(parts):
        text, stop = stream.push(part, armed=i >= num_early)
        out += text
        whole, first = "".join(parts[: i + 1]), before + 1
        ends = [whole.find(s, max(0, first - len(s))) for s in stops]
        found = [place for place in ends if place >= 0] if i >= num_early else []
        before = len(whole)
        if found:
            assert stop is not None
            assert out == whole[: min(found) + len(stop) * included]
            return
        assert stop is None
    assert out + stream.flush() == "".join(parts)


def _byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Tokens of the single bytes: a byte-level vocabulary lists them in the order of their characters."""
    decoded = {tokenizer.id_to_token(i): i for i in range(256)}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    chars = {b: chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)}
    return [decoded[chars[b]] for b in data]
