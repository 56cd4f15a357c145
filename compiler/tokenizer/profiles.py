"""How text is cut into words before byte-pair merges, by the names that GGUF files give to the ways."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

DIGIT = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class Profile(NamedTuple):
    """`splits` cut one after the other. `ignore_merges`: a word that is a token stays whole. `nfc`: compose first.

    `adds_bos`: what holds where the file does not say.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


_LLAMA3 = Profile((LLAMA3,), ignore_merges=True, adds_bos=True)
_QWEN2 = Profile((QWEN2,), nfc=True)
_GPT2 = Profile((GPT2,))
_STARCODER = Profile((DIGIT, GPT2))

PROFILES = {
    "deepseek-r1-qwen": _QWEN2,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "phi-2": _GPT2,
    "qwen2": _QWEN2,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
}


def find_profile(name: str) -> Profile:
    """Raises CompileError for a name we do not know: a guess would tokenize almost right."""
    if name in PROFILES:
        return PROFILES[name]
    nearest = get_close_matches(name, PROFILES, n=1)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    raise CompileError(f"pre-tokenizer {name!r} is not known, only {', '.join(PROFILES)}{hint}")
