"""Thoughts are told apart from answers, in pieces of any size, without half a tag in either."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistralrs_onnx.server.reasoning import BRACKETS, THINK, Parts, Reasoning, Tags, detect, is_open


def split(pieces: Sequence[str], tags: Tags = THINK, *, open_: bool = False) -> Parts:
    reasoning = Reasoning(tags, is_open=open_)
    parts = [*map(reasoning.feed, pieces), reasoning.finish()]
    return Parts("".join(each.reasoning for each in parts), "".join(each.content for each in parts))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nHm.\n\nSo.\n</think>\n\nYes.", Parts("Hm.\n\nSo.", "Yes.")),
        ("\n <think>Hm</think>Yes <think>no</think>", Parts("Hm", "Yes <think>no</think>")),
        ("<think>a </thin> b</think>c", Parts("a </thin> b", "c")),
        ("<think>cut off </thi", Parts("cut off </thi", "")),
        ("<think>\n\n</think>\n\nYes.", Parts("", "Yes.")),
        ("Yes <think>no</think>", Parts("", "Yes <think>no</think>")),
        (" <thi", Parts("", " <thi")),
        (" Yes\n", Parts("", " Yes\n")),
        ("", Parts()),
    ],
)
def test_thoughts_stand_at_the_beginning(text: str, parts: Parts) -> None:
    assert split([text]) == parts
    assert split(list(text)) == parts


def test_the_prompt_may_have_begun_the_thoughts() -> None:
    assert is_open("<|im_start|>assistant\n<think>\n", THINK)
    assert not is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n", THINK)
    assert split(["Hm</th", "ink>Yes"], open_=True) == Parts("Hm", "Yes")
    assert split(["Hm"], open_=True) == Parts("Hm", "")


def test_mistrals_brackets() -> None:
    assert split(["[THINK]Hm[/THINK]Yes"], BRACKETS) == Parts("Hm", "Yes")


def test_text_goes_out_as_soon_as_it_can() -> None:
    reasoning = Reasoning(THINK)
    pieces = ["<think>", "a b", " ", "c <", "d</think", "> ", "e<", "f"]
    assert [reasoning.feed(piece) for piece in pieces] == [
        Parts(),
        Parts("a b"),
        Parts(),
        Parts(" c"),
        Parts(" <d"),
        Parts(),
        Parts("", "e<"),
        Parts("", "f"),
    ]


@pytest.mark.parametrize("tags", [THINK, BRACKETS])
@given(
    text=st.lists(
        st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "<", "</", "thi", " ", "\n", "a"])
    ).map("".join),
    open_=st.booleans(),
    data=st.data(),
)
def test_pieces_of_any_size_give_the_same(tags: Tags, text: str, open_: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    pieces = [text[i:j] for i, j in itertools.pairwise([0, *cuts, len(text)])]
    whole = split([text], tags, open_=open_)
    assert split(pieces, tags, open_=open_) == whole
    assert tags.closing not in whole.reasoning
    opened = open_ or text.lstrip().startswith(tags.opening)
    assert opened or whole == Parts("", text)
    joined = "".join((whole.reasoning + whole.content).split())
    marks = "".join(text.split())
    assert joined == (marks if not opened else without_marks(marks, tags, open_=open_))


def without_marks(text: str, tags: Tags, *, open_: bool) -> str:
    text = text if open_ else text.removeprefix(tags.opening)
    return text.replace(tags.closing, "", 1)


def test_a_template_tells_the_tags() -> None:
    assert detect("{{ '<think>' }}") == THINK
    assert detect("[THINK]{{ thoughts }}[/THINK]") == BRACKETS
    assert detect("{{ messages }}") is None
    assert detect(None) is None
