"""Tokenizer files of a package, rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError

from .bpe import bpe_json
from .external import External, read_external, with_ends
from .files import TokenizerFiles, special_texts, tokenizer_config, write_files
from .layout import Affixes, Json
from .profiles import PROFILES, Profile, find_profile
from .sentencepiece import merged_json, sentencepiece_json
from .vocabulary import SpecialIds, Vocabulary, read_vocabulary

BYTE_LEVEL, SENTENCEPIECE, SPACED = "gpt2", "llama", "gemma4"  # SPACED: SentencePiece's way, but with merges
MODELS = (BYTE_LEVEL, SENTENCEPIECE, SPACED)


def special_ids(metadata: Metadata) -> SpecialIds:
    return read_vocabulary(metadata).special_ids


def tokenizer_files(
    metadata: Metadata,
    *,
    pre: str | None = None,
    external: Path | None = None,
    template: str | None = None,
) -> dict[str, bytes]:
    """The files of `gguf_files`."""
    return gguf_files(metadata, pre=pre, external=external, template=template).files


def gguf_files(
    metadata: Metadata,
    *,
    pre: str | None = None,
    external: Path | None = None,
    template: str | None = None,
) -> TokenizerFiles:
    """Equal arguments give equal bytes. Raises CompileError for a tokenizer we cannot rebuild.

    `pre`: the name of the pre-tokenizer, whatever the file says. `external`: a tokenizer.json, or a folder with one,
    to take instead; its tokens must be those of the file. `template`: the chat template, before all others.
    """
    vocabulary = read_vocabulary(metadata)
    affixes = _affixes(metadata, vocabulary, _model(metadata), pre)
    outside = None if external is None else read_external(external, vocabulary)
    tokenizer = outside.tokenizer if outside else _rebuilt(metadata, vocabulary, affixes, pre)
    special = special_texts(vocabulary)
    architecture = metadata.string("general.architecture")
    config = tokenizer_config(special, affixes, metadata.integer(f"{architecture}.context_length"))
    files = write_files(tokenizer, config, special, _template(metadata, template, outside))
    return TokenizerFiles(files, with_ends(vocabulary.special_ids, outside.ends if outside else ()))


def _template(metadata: Metadata, given: str | None, outside: External | None) -> str | None:
    if given is not None:
        return given
    if outside is not None and outside.template is not None:
        return outside.template
    key = "tokenizer.chat_template"
    return metadata.string(key) if key in metadata else None


def _rebuilt(metadata: Metadata, vocabulary: Vocabulary, affixes: Affixes, pre: str | None) -> Json:
    model = _model(metadata)
    if model == BYTE_LEVEL:
        return bpe_json(vocabulary, metadata.strings("tokenizer.ggml.merges"), _profile(metadata, pre), affixes)
    if pre is not None:
        raise CompileError(f"tokenizer model {model!r} has no pre-tokenizer, got the name {pre!r}: leave it out")
    if metadata.flag("tokenizer.ggml.remove_extra_whitespaces", default=False):
        raise CompileError(f"tokenizer.ggml.remove_extra_whitespaces is not supported for tokenizer model {model!r}")
    if model == SPACED:
        prefix = metadata.flag("tokenizer.ggml.add_space_prefix", default=False)
        return merged_json(vocabulary, metadata.strings("tokenizer.ggml.merges"), affixes, space_prefix=prefix)
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", default=True)
    return sentencepiece_json(vocabulary, _scores(metadata), affixes, space_prefix=prefix)


def _scores(metadata: Metadata) -> list[float]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "iuf":
        raise metadata.error("metadata key tokenizer.ggml.scores must be an array of numbers, one a token")
    return [float(score) for score in scores.tolist()]


def _model(metadata: Metadata) -> str:
    model = metadata.string("tokenizer.ggml.model")
    if model not in MODELS:
        raise CompileError(f"tokenizer model {model!r} is not supported yet, only {', '.join(MODELS)}")
    return model


def _profile(metadata: Metadata, pre: str | None) -> Profile:
    if pre is None and "tokenizer.ggml.pre" not in metadata:
        raise metadata.error(
            "the file lacks metadata key tokenizer.ggml.pre, the name of the pre-tokenizer: say it with --pre"
        )
    return find_profile(pre or metadata.string("tokenizer.ggml.pre"))


def _affixes(metadata: Metadata, vocabulary: Vocabulary, model: str, pre: str | None) -> Affixes:
    """Where the file does not say whether prompts begin with BOS, its kind of tokenizer does."""
    profile = PROFILES.get(pre or metadata.string("tokenizer.ggml.pre", ""))
    adds_bos = (profile is not None and profile.adds_bos) if model == BYTE_LEVEL else True
    before = "bos" if metadata.flag("tokenizer.ggml.add_bos_token", default=adds_bos) else None
    after = "eos" if metadata.flag("tokenizer.ggml.add_eos_token", default=False) else None
    return Affixes(_role_text(vocabulary, before), _role_text(vocabulary, after))


def _role_text(vocabulary: Vocabulary, role: str | None) -> str | None:
    if role is None:
        return None
    if role not in vocabulary.roles:
        raise CompileError(f"tokenizer.ggml.add_{role}_token is set, but tokenizer.ggml.{role}_token_id is missing")
    return vocabulary.tokens[vocabulary.roles[role]]
