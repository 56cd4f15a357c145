"""Config files that other programs read from a package: onnxruntime-genai, and readers of Hugging Face configs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mistralrs_onnx.graphs.contract import ATTENTION_MASK, INPUT_IDS, LOGITS, PORTABLE_GRAPH, POSITION_IDS
from mistralrs_onnx.graphs.decoder import Decoder

from .config import Config

GENAI_MAX_LENGTH = 4096  # that program reserves keys and values for all of it


def host_configs(
    config: Config,
    spec: Decoder,
    bos: int | None,
    eos: tuple[int, ...],
    pad: int | None,
    generation: Mapping[str, Any],
) -> dict[str, bytes]:
    """File name to content. `generation`: the checkpoint's own generation_config.json."""
    tokens: dict[str, Any] = {"bos_token_id": bos, "eos_token_id": list(eos), "pad_token_id": pad}
    return {
        "genai_config.json": _json(_genai(config, spec, bos, eos, pad)),
        "config.json": _json(_hugging_face(config, spec) | tokens),
        "generation_config.json": _json(dict(generation) | tokens),
    }


def _genai(config: Config, spec: Decoder, bos: int | None, eos: tuple[int, ...], pad: int | None) -> dict[str, Any]:
    attention = spec.layers[0].attention
    model = {
        "bos_token_id": 1 if bos is None else bos,
        "context_length": spec.context_length,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": PORTABLE_GRAPH,
            "head_size": attention.cached_size,
            "hidden_size": spec.hidden_size,
            "inputs": {
                "input_ids": INPUT_IDS,
                "attention_mask": ATTENTION_MASK,
                "position_ids": POSITION_IDS,
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": LOGITS,
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
            "num_attention_heads": attention.num_heads,
            "num_hidden_layers": len(spec.layers),
            "num_key_value_heads": attention.num_kv_heads,
        },
        "eos_token_id": list(eos),
        "pad_token_id": eos[0] if pad is None else pad,
        "type": config.values["model_type"],
        "vocab_size": spec.vocab_size,
    }
    search = {
        "do_sample": False,
        "max_length": min(spec.context_length, GENAI_MAX_LENGTH),
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    }
    return {"model": model, "search": search}


def _hugging_face(config: Config, spec: Decoder) -> dict[str, Any]:
    attention = spec.layers[0].attention
    return dict(config.values) | {
        "head_dim": attention.head_size,
        "num_key_value_heads": attention.num_kv_heads,
        "tie_word_embeddings": spec.tied,
        "transformers.js_config": {"use_external_data_format": {PORTABLE_GRAPH: 1}},
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
