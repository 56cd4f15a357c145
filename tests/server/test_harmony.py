"""Channels are told apart in pieces of any size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistralrs_onnx.server.harmony import Harmony
from mistralrs_onnx.server.reasoning import Parts


def split(pieces: Sequence[str]) -> Parts:
    harmony = Harmony()
    parts = [*map(harmony.feed, pieces), harmony.finish()]
    return Parts("".join(each.reasoning for each in parts), "".join(each.content for each in parts))


CALL = "<|channel|>commentary to=functions.f<|message|>{}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<|channel|>analysis<|message|>Hmassistant<|channel|>final<|message|>Yes", Parts("Hm", "Yes")),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}", Parts("", CALL)),
        ("<|channel|>commentary to=functions.f json<|message|>{}", Parts("", CALL)),
        ("<|channel|>analysis<|message|>aassistant to=functions.f<|channel|>commentary<|message|>{}", Parts("a", CALL)),
        ("<|channel|>commentary to=browser.open<|message|>{}", Parts("{}", "")),
        ("plain, assistant", Parts("", "plain, assistant")),
        ("<|channel|>final<|message|>an assistant to=", Parts("", "an assistant to=")),
        ("<|channel|>final", Parts()),
    ],
)
def test_channels(text: str, parts: Parts) -> None:
    assert split([text]) == parts
    assert split(list(text)) == parts


MARKS = ["<|channel|>", "<|message|>", "analysis", "final", "commentary", "assistant", " to=", "functions.f", "<|", "a"]


@given(text=st.lists(st.sampled_from([*MARKS, " ", "ass"])).map("".join), data=st.data())
def test_pieces_of_any_size_give_the_same(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    whole = split([text])
    assert split([text[i:j] for i, j in itertools.pairwise([0, *cuts, len(text)])]) == whole
    assert split(list(text)) == whole
    if "<|channel|>" not in text:
        assert whole == Parts("", text)
