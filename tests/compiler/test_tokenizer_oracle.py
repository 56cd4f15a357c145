"""Token ids equal llama.cpp's, on the real SmolLM2 vocabulary and with every pre-tokenizer that we know."""

from __future__ import annotations

import random
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf as reference
import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.tokenizer.gguf import tokenizer_files
from mistralrs_onnx.compiler.tokenizer.profiles import PROFILES

pytestmark = pytest.mark.oracle

PROSE = """
Hello, world! I'll say it's DON'T, we've, they'RE; "quotes" -- and… ellipses? 3.14159, 1,000,000 or 2024-06-01T12:30Z.
Ñandú über straße façade naïve cafe\u0301 ﬁne Ⅷ ½ ² ①. Привет, мир! Ещё раз: съешь же. Γειά σου Κόσμε. שלום עולם.
مرحبا بالعالم ١٢٣. नमस्ते दुनिया १२३ क्षत्रिय. สวัสดีชาวโลก. 你好，世界！今天天气很好。こんにちは世界、カタカナ。
안녕하세요 세계.
😀😶‍🌫️👩‍👩‍👧‍👦🏳️‍🌈🇫🇷👍🏽 ✅ ∑∞≠ ← → 🚀🚀. Zalgo: Z̵̢͝a̷l̶g̷o̶. ‮rtl‬ zero\u200bwidth \ufeffbom \u00ad.
"""
SPACES = [
    "",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u0085",
    "\u2028",
    "\u1680",
    "\v",
    "\f",
]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|im_start", "|>", "<filename><gh_stars>"]
PARSE = True
NEW_DIGITS = {
    start + i for start in (0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x16130, 0x16D70, 0x1CCF0, 0x1E5F1) for i in range(10)
}  # of Unicode 16
CASED = ("gpt-4o", "kanana2", "llama4", "minimax-m2", "tekken")
RANGED = ("deepseek-coder", "deepseek-llm")
TEST_MODELS = Path.home() / ".cache/mistralrs-onnx-test-models"
Encode = Callable[[str, bool], list[int]]


def chunks(text: str, rng: random.Random) -> Iterator[str]:
    start = 0
    while start < len(text):
        length = rng.choice((1, 2, 3, 7, 20, 80, 300, 2000, 9000))
        yield text[start : start + length]
        start += length


def mixed_text() -> Iterator[str]:
    """About 2 MB in pieces: source code, prose of many scripts, every assigned character, spaces, special tokens."""
    rng = random.Random(0)
    folder = Path(sysconfig.get_path("stdlib"))
    code = "".join((folder / f"{name}.py").read_text("utf-8") for name in ("argparse", "typing", "inspect", "tarfile"))
    words = PROSE.split() + code.split()[:2000]
    soup = "".join(rng.choice(words) + "".join(rng.choices(SPACES, k=rng.randint(0, 4))) for _ in range(60_000))
    specials = "".join(rng.choice((*SPECIALS, *SPACES, *words[:50])) for _ in range(20_000))
    for text in (code, code.replace("    ", "\t"), PROSE * 40, soup, specials, "".join(characters())):
        yield from chunks(text, rng)


def characters() -> Iterator[str]:
    """Every character that Python's Unicode database knows, between letters, signs and spaces.

    Later digits are left out: `tokenizers` knows them and llama.cpp does not yet.
    """
    for code in range(sys.maxunicode):
        if unicodedata.category(char := chr(code)) not in ("Cn", "Cs", "Co") and code not in NEW_DIGITS:
            yield f"a{char} {char}#{char}"[: 2 + code % 4]


def encoder(path: Path) -> Encode:
    tokenizer = Tokenizer.from_str(tokenizer_files(read_gguf(path).metadata)["tokenizer.json"].decode())

    def encode(text: str, parse_special: bool) -> list[int]:
        tokenizer.encode_special_tokens = not parse_special
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


def reference_encoder(path: Path) -> Encode:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def encode(text: str, parse_special: bool) -> list[int]:
        return list(model.tokenize(text.encode(), add_bos=False, special=parse_special))

    return encode


@pytest.fixture(params=["SmolLM2-135M-Instruct.Q4_1", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M", "gemma-3-270m.Q4_K_M"])
def real_gguf(request: pytest.FixtureRequest) -> Path:
    path = TEST_MODELS / f"{request.param}.gguf"
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


@pytest.mark.parametrize("parse_special", [True, False])
def test_real_models_on_mixed_text(real_gguf: Path, parse_special: bool) -> None:
    ours, theirs = encoder(real_gguf), reference_encoder(real_gguf)
    composes = is_composing(real_gguf)
    num_bytes = num_tokens = 0
    for text in mixed_text():
        text = plain(text, composes=composes)
        ids = theirs(text, parse_special)
        assert ours(text, parse_special) == ids, repr(text)
        num_bytes, num_tokens = num_bytes + len(text.encode()), num_tokens + len(ids)
    print(f"{num_bytes} bytes, {num_tokens} tokens equal, parse_special={parse_special}")
    assert num_bytes > 1_000_000


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(smollm2_gguf: Path, tmp_path: Path, profile: str) -> None:
    """The vocabulary of SmolLM2, cut in the way of other models."""
    path = with_profile(smollm2_gguf, tmp_path / "vocab.gguf", profile)
    ours, theirs = encoder(path), reference_encoder(path)
    for text in mixed_text():
        text = common(plain(text, composes=PROFILES[profile].nfc), profile)
        assert ours(text, PARSE) == theirs(text, PARSE), repr(text)


def common(text: str, profile: str) -> str:
    """What llama.cpp cuts like the model's own tokenizer, from which it differs in some profiles.

    It tells capitals from small letters only in ASCII, and sees no characters that are white space in ranges of others.
    """
    if profile in CASED:
        return "".join(char for char in text if char.isascii() or unicodedata.category(char)[0] not in "LM")
    if profile in RANGED:
        return "".join(char for char in text if char.isascii() or not char.isspace())
    return text


def plain(text: str, *, composes: bool) -> str:
    """Composed where the model composes, and without long s, which is an s in our (?i:'s), but not for llama.cpp."""
    return (unicodedata.normalize("NFC", text) if composes else text).replace("ſ", "s")


def is_composing(path: Path) -> bool:
    return PROFILES[read_gguf(path).metadata.string("tokenizer.ggml.pre")].nfc


def with_profile(source: Path, path: Path, profile: str) -> Path:
    metadata = read_gguf(source).metadata
    writer = reference.GGUFWriter(path, "llama")
    writer.add_context_length(metadata.integer("llama.context_length"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(profile)
    writer.add_token_list(metadata.strings("tokenizer.ggml.tokens"))
    writer.add_token_types(metadata.integers("tokenizer.ggml.token_type").tolist())
    writer.add_token_merges(metadata.strings("tokenizer.ggml.merges"))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
