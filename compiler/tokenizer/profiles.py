"""How text is cut into words before byte-pair merges, by the names that GGUF files give to the ways.

The regular expressions are those of the models' own tokenizers, in the dialect of Oniguruma.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .scripts import CASED_LETTERS, CJK_HANGUL, KANA_HAN, WIDE_SIGNS

ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
DIGIT, DIGITS, THOUSANDS = r"\p{N}", r"\p{N}+", r"\p{N}{1,3}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(numbers: str) -> str:
    """Words of letters with one sign or space before them, numbers, signs with the ends of lines after them."""
    return rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"


def _cased(numbers: str, contraction: str) -> str:
    """The same with words that also end before a capital."""
    upper, lower = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    small = rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+{contraction}"
    capital = rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*{contraction}"
    return rf"{small}|{capital}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"


LLAMA3 = _words(THOUSANDS)
QWEN2 = _words(DIGIT)
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")
GPT4O = _cased(THOUSANDS, f"{ANY_CASE}?")
TEKKEN = _cased(DIGIT, "")
SEED_CODER = QWEN2.replace(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}\r\n]+")
BAILING = QWEN2.replace(ANY_CASE, "'(?i:[sdmt]|ll|ve|re)").replace(r"\s*[\r\n]+", r"\s*[\r\n]")
BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
SIGNS = r"[\p{P}$+<=>\^~|]+"
DEEPSEEK_LLM = (r"[\r\n]", rf"\s?[{CASED_LETTERS}]+", rf"\s?[{WIDE_SIGNS}]+", r"\s+\z", rf"[{CJK_HANGUL}]+", DIGITS)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", rf"[{CJK_HANGUL}]+", DIGIT)
_WORDS_V3 = r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]\^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
DEEPSEEK_V3 = (THOUSANDS, rf"[{KANA_HAN}]+", rf"{_WORDS_V3}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}")


class Profile(NamedTuple):
    """`splits` cut one after the other. `ignore_merges`: a word that is a token stays whole. `nfc`: compose first.

    `adds_bos`: what holds where the file does not say.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


_NAMES = {
    Profile((GPT2,)): "gpt-2 phi-2 jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum",
    Profile((GPT2,), nfc=True): "mpt olmo",
    Profile((DIGIT, GPT2)): "starcoder smollm refact codeshell exaone minerva-7b mellum2",
    Profile((DIGIT, GPT2), nfc=True): "command-r",
    Profile((LLAMA3,)): "dbrx smaug-bpe chatglm-bpe",
    Profile((LLAMA3,), ignore_merges=True): "glm4 glm5",
    Profile((LLAMA3,), ignore_merges=True, adds_bos=True): (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"
    ),
    Profile((THOUSANDS, _words(DIGITS)), ignore_merges=True): "minicpm5",
    Profile((QWEN2,)): "stablelm2 megrez hunyuan grok-2 kormo solar-open",
    Profile((QWEN2,), nfc=True): "qwen2 deepseek-r1-qwen",
    Profile((QWEN35,), nfc=True): "qwen35",
    Profile((SEED_CODER,)): "seed-coder",
    Profile((BAILING,)): "bailingmoe bailingmoe2 llada-moe",
    Profile((GPT4O,)): "gpt-4o llama4 kanana2 minimax-m2",
    Profile((TEKKEN,), ignore_merges=True, adds_bos=True): "tekken",
    Profile(DEEPSEEK_LLM): "deepseek-llm",
    Profile(DEEPSEEK_CODER): "deepseek-coder",
    Profile(DEEPSEEK_V3): "deepseek-v3 hunyuan-dense joyai-llm",
    Profile((SIGNS.replace("|]", "|`]"), GPT2, "[0-9][0-9][0-9]")): "falcon",
    Profile((SIGNS, GPT2, DIGITS, "[0-9][0-9][0-9]")): "default",
    Profile((BLOOM,)): "bloom poro-chat gpt3-finnish",
    Profile((BLOOM, DIGIT)): "viking",
}
PROFILES = {name: profile for profile, names in _NAMES.items() for name in names.split()}


def find_profile(name: str) -> Profile:
    """Raises CompileError for a name we do not know: a guess would tokenize almost right."""
    if name in PROFILES:
        return PROFILES[name]
    nearest = get_close_matches(name, PROFILES, n=1)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    raise CompileError(f"pre-tokenizer {name!r} is not known, only {', '.join(sorted(PROFILES))}{hint}")
