"""Forms of prompts, and what is none."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mistralrs_onnx import RequestError
from mistralrs_onnx.prompts import Encoded, encoded, prompt_list


class Letters:
    """Each character is a token, behind one that begins texts."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [1] * special + [ord(character) for character in text]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("ab", ["ab"]),
        ([1, 2], [[1, 2]]),
        ({"prompt": "a"}, [{"prompt": "a"}]),
        (["a", [1], {"prompt": "a"}], ["a", [1], {"prompt": "a"}]),
        ([[1], [2]], [[1], [2]]),
        (("a", "b"), ["a", "b"]),
        ([], []),
    ],
)
def test_one_prompt_is_told_from_many(prompts: Any, expected: list[Any]) -> None:
    assert prompt_list(prompts) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", Encoded("a", [1, 97])),
        ([5, 6], Encoded(None, [5, 6])),
        ((5, 6), Encoded(None, [5, 6])),
        ({"prompt": "a"}, Encoded("a", [1, 97])),
        ({"prompt": "a", "cache_salt": "me"}, Encoded("a", [1, 97], ("me",))),
        ({"prompt_token_ids": [5]}, Encoded(None, [5])),
        ({"prompt_token_ids": [5], "prompt": "five", "cache_salt": ""}, Encoded("five", [5])),
    ],
)
def test_each_form_is_read(prompt: Any, expected: Encoded) -> None:
    assert encoded(prompt, Letters()) == expected


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "a prompt is a text, a list of token ids"),
        (["a"], "got \\['a'\\]"),
        ([True], "got \\[True\\]"),
        ({}, "got None"),
        ({"prompt": [1]}, "got \\[1\\]"),
        ({"prompt_token_ids": "ab"}, "got 'ab'"),
        ({"prompt": "a", "multi_modal_data": {}}, "got 'multi_modal_data' in it"),
        ({"prompt": "a", "cache_salt": 3}, "cache_salt is a text, got 3"),
    ],
)
def test_other_forms_are_refused(prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        encoded(prompt, Letters())


def test_what_is_no_prompt_is_refused_as_a_list_too() -> None:
    with pytest.raises(RequestError, match=r"a prompt is a text, a list of token ids, .*, got 3"):
        prompt_list(cast(Any, 3))
