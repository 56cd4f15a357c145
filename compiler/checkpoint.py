"""An open checkpoint of any kind, as compiling sees it: an architecture, a config, weights, a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import gguf_model, hf_model
from .archs import find_arch
from .archs.arch import Arch
from .canonical import CanonicalWeights, Stored
from .checkpoints.ggml_file import GGMLFile, read_ggml
from .checkpoints.gguf import GGUF, read_gguf
from .checkpoints.safetensors import read_safetensors
from .config import Config
from .errors import CompileError
from .naming import Naming
from .tensor_lists import note_tensors
from .tokenizer.files import TokenizerFiles
from .tokenizer.folder import GENERATION_CONFIG, folder_files
from .tokenizer.ggml import ggml_files
from .tokenizer.gguf import gguf_files
from .tokenizer.json_files import read_optional


@dataclass(frozen=True, slots=True)
class Reading:
    """What a user says of a checkpoint, before what it says itself.

    `arch`: the architecture. `pre`: the name of the pre-tokenizer. `tokenizer`: a tokenizer.json or a folder with one.
    `chat_template`: the text of the template. `gqa`: query heads that share a key head, in GGML files.
    """

    arch: str | None = None
    pre: str | None = None
    tokenizer: Path | None = None
    chat_template: str | None = None
    gqa: int = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`tokenizer` rebuilds the tokenizer when it is called. `generation`: defaults of generation_config.json."""

    name: str
    arch: Arch
    config: Config
    weights: CanonicalWeights
    tokenizer: Callable[[], TokenizerFiles]
    generation: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def open_gguf(path: Path, reading: Reading) -> Iterator[Checkpoint]:
    with read_gguf(path) as gguf:
        note_tensors("gguf", gguf.tensors.values())
        arch = gguf_model.find_architecture(gguf, reading.arch)
        config = gguf_model.read_config(gguf, arch)
        weights = _weights(gguf_model.GGUFStored(gguf), arch.gguf_naming, config)
        yield Checkpoint(path.stem, arch, config, weights, lambda: _gguf_tokenizer(gguf, reading))


@contextmanager
def open_folder(folder: Path, reading: Reading) -> Iterator[Checkpoint]:
    """A folder as Hugging Face lays it out."""
    config = hf_model.read_hf_config(folder)
    arch = hf_model.find_architecture(config, reading.arch)
    generation = read_optional(folder / GENERATION_CONFIG)
    with read_safetensors(folder) as file:
        weights = _weights(hf_model.SafeStored(file, config), arch.hf_naming, config)
        config = Config({**config.values, "vocab_size": _vocab_size(weights, config), "model_type": arch.name})
        name = folder.resolve().name
        yield Checkpoint(name, arch, config, weights, lambda: _folder_tokenizer(folder, reading), generation)


@contextmanager
def open_ggml(path: Path, reading: Reading) -> Iterator[Checkpoint]:
    """A llama file from before GGUF."""
    with read_ggml(path) as file:
        note_tensors("ggml", file.tensors.values())
        arch = find_arch(reading.arch or "llama")
        config = _ggml_config(file, reading.gqa)
        weights = _weights(gguf_model.GGUFStored(file), GGML_NAMING, config)
        yield Checkpoint(path.stem, arch, config, weights, lambda: _ggml_tokenizer(file, reading))


# More than any model has: a damaged count would take all memory before a missing tensor is found.
LARGEST = {
    "num_hidden_layers": 1024,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "max_position_embeddings": 2**21,
}


def _weights(stored: Stored, naming: Naming, config: Config) -> CanonicalWeights:
    for key, largest in LARGEST.items():
        if key in config and config.size(key) > largest:
            raise CompileError(f"config key {key} is {config.size(key)}, at most {largest} is supported")
    head_size = config.size("head_dim", config.size("hidden_size") // config.size("num_attention_heads"))
    return CanonicalWeights(stored, naming, head_size)


def _vocab_size(weights: CanonicalWeights, config: Config) -> int:
    """Tables may have more rows than the config says, to fill them up."""
    name = "model.embed_tokens.weight"
    return weights.matrix(name).shape[0] if name in weights else config.size("vocab_size")


def _gguf_tokenizer(gguf: GGUF, reading: Reading) -> TokenizerFiles:
    return gguf_files(gguf.metadata, pre=reading.pre, external=reading.tokenizer, template=reading.chat_template)


def _folder_tokenizer(folder: Path, reading: Reading) -> TokenizerFiles:
    _refuse_pre(reading)
    return folder_files(folder, tokenizer=reading.tokenizer, template=reading.chat_template)


def _ggml_tokenizer(file: GGMLFile, reading: Reading) -> TokenizerFiles:
    _refuse_pre(reading)
    scores = None if file.scores is None else file.scores.tolist()
    return ggml_files(file.tokens, scores, external=reading.tokenizer, template=reading.chat_template)


def _refuse_pre(reading: Reading) -> None:
    if reading.pre is not None:
        raise CompileError("a pre-tokenizer is chosen for GGUF files only: this checkpoint's tokenizer says its own")


GGML_LAYER, GGML_STORED = "model.layers.{i}.", "layers.{i}."
GGML_PARTS = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
GGML_NAMING = Naming(
    {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    | {GGML_LAYER + name: GGML_STORED + stored for name, stored in GGML_PARTS.items()},
    permuted=("self_attn.q_proj", "self_attn.k_proj"),
)
GGML_CONTEXT, GGML_EPSILON = 4096, 1e-5  # such files do not say


def _ggml_config(file: GGMLFile, gqa: int) -> Config:
    params = file.hparams
    if gqa < 1 or params.n_head % gqa:
        raise CompileError(f"--gqa must divide the {params.n_head} heads, got {gqa}")
    wide = file.tensors.get("layers.0.feed_forward.w1.weight")
    if wide is None:
        raise CompileError(f"{file.path} has no tensor layers.0.feed_forward.w1.weight: it is damaged or no llama file")
    return Config(
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": params.n_vocab,
            "hidden_size": params.n_embd,
            "intermediate_size": wide.shape[0],
            "num_hidden_layers": params.n_layer,
            "num_attention_heads": params.n_head,
            "num_key_value_heads": params.n_head // gqa,
            "max_position_embeddings": GGML_CONTEXT,
            "rms_norm_eps": GGML_EPSILON,
        }
    )
