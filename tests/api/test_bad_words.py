"""Words as the tokens that would write them."""

from __future__ import annotations

from mistralrs_onnx.bad_words import word_tokens

WORDS = {"cat": 300, " cat": 301}


class Spaced:
    """A word is a token, and another one behind a space; anything else is its characters."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        assert not special
        return [WORDS[text]] if text in WORDS else [ord(character) for character in text]


def test_a_word_is_meant_at_the_beginning_and_behind_a_space() -> None:
    assert word_tokens(["cat", " cat"], Spaced()) == ((300,), (301,)) * 2


def test_a_space_that_is_a_token_of_its_own_changes_nothing() -> None:
    assert word_tokens(["ab"], Spaced()) == ((97, 98),)
