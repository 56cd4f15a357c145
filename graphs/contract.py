"""What compiler and runtime agree on: names of graph inputs and outputs, and the manifest. Standard library only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 2  # of the manifest; a runtime reads its own and no other

MANIFEST = "manifest.json"
PORTABLE_GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
ADAPTERS = "adapters"  # the only folder in a package
ADAPTER_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"  # requests may give it as the name of a model

LARGEST_CHUNK = 2048  # prompt tokens that one slot may take in a step
LARGEST_GROUP = 64  # query heads that may share a key head: the rows that a decoding slot shows
ROPE_MARGIN = (
    LARGEST_CHUNK + LARGEST_GROUP
)  # rows of the RoPE table past the context: a padded chunk at its end reaches so far

KVDtype = Literal["float32", "float16"]
CUDA_KV_DTYPE: KVDtype = "float16"

# The serving graph packs the new tokens of all slots end to end: T tokens, R wanted logits. Attention sees two windows
# of slots: C of them read chunks of up to S tokens, D of them decode one token each.
INPUT_IDS = "input_ids"  # int64 (T,) in the serving graph, (B, S) in the others
PAD_INDEX = "pad_index"  # int64 (C, S): packed index of each slot's chunk position
QUERY_SEQLENS = "query_seqlens"  # int32 (C,): new rows of each slot, 0 for an idle one
SEQLENS_K = "seqlens_k"  # int32 (C,): rows of the slot after the step, minus 1
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # int32 scalar: an upper bound of rows of any slot
DECODE_INDEX = "decode_index"  # int64 (D,): packed index of each slot's token
DECODE_HELD = "decode_held"  # int32 (D,): tokens of the slot before the step
DECODE_ACTIVE = "decode_active"  # int32 (D,): 1, or 0 for an idle slot
DECODE_EVEN = "decode_even"  # int32 scalar: 1 keeps attention's rows even, for batch invariance; 0 does not
ROW_MULTIPLE = "row_multiple"  # int64 (1,): experts see a multiple of so many rows; where there are experts
ROPE_INDEX = "rope_index"  # int64 (T,): row of the rotary table for each packed token, where attention does not turn
UNPAD_INDEX = "unpad_index"  # int64 (T,): each packed token's place in the C * S chunk rows and the D decode rows
LOGIT_INDEX = "logit_index"  # int64 (R,): packed positions whose logits are wanted
LOGITS = "logits"  # float32 (R, vocab) in the serving graph, (B, S, vocab) in the portable one

# Graphs that take adapters run each adapter of a step as a lane: G lanes of M rows, their padding included, of which P
# are tokens. Each group of linears has an a and a b for each lane; `lora_inputs` names them.
LORA_USED = "lora_used"  # bool (groups,): whether any lane adapts the group
LORA_TOKENS = "lora_tokens"  # int64 (G, M): packed index of each lane's rows, any for padding
LORA_PLACES = "lora_places"  # int64 (P,): those of the G * M rows that are tokens
LORA_ROWS = "lora_rows"  # int64 (P, 1): their packed index
LORA_LANE = "lora_lane"  # int64 (T,): lane of each packed token, -1 for none; where there are adapted experts
LORA_BLOCK = 16  # ranks are filled up with zeros to a multiple of this
MIN_LANE_ROWS = 2  # a row alone would be summed in another order

# Graphs of X-LoRA run twice in a step, over keys and values of their own: for scalings, and with them.
SCALINGS = "scalings"  # float32 (T, sets, adapters)
IS_SCALED = "is_scaled"  # bool (1,): whether adapters are added at all
SCALING_INDEX = "scaling_index"  # int64 (Q,): packed tokens whose scalings are wanted
NEXT_SCALINGS = "next_scalings"  # float32 (Q, sets, adapters)

# The graph for CUDA takes B slots with S tokens each, T = B * S: one token of each slot in a window, or a chunk of one
# slot. Its total_sequence_length is exact, and logit_index is of the T tokens, slot by slot. Beside it is a graph that
# copies slots: each of its outputs is the input of the same cache name, spread over the shape.
SLOT_SHAPE = "slot_shape"  # int64 (1,): elements of each output

ATTENTION_MASK = "attention_mask"  # int64 (B, past + S), portable graph
POSITION_IDS = "position_ids"  # int64 (B, S), portable graph


def cache_names(num_layers: int, prefix: str = "") -> list[tuple[str, str]]:
    """Past and present names in the order of the graph: key and value of layer 0, of layer 1, ..."""
    parts = [f"{i}.{part}" for i in range(num_layers) for part in ("key", "value")]
    return [(f"{prefix}past_key_values.{part}", f"{prefix}present.{part}") for part in parts]


DECODE_PREFIX = "decode."  # of the cache names of the window that decodes


@dataclass(frozen=True, slots=True)
class KVGeometry:
    """Shape of the cache: each layer keeps (slots, num_heads, capacity, head_size) for keys and for values."""

    num_layers: int
    num_heads: int
    head_size: int

    def token_bytes(self, itemsize: int) -> int:
        return 2 * self.num_layers * self.num_heads * self.head_size * itemsize


class Update(NamedTuple):
    """What an adapter adds to a linear: b · (a · x) (Hu et al., 2021)."""

    a: NDArray[np.float32]  # (rank, K)
    b: NDArray[np.float32]  # (N, rank), its scale included


Updates = Mapping[str, Update]  # by canonical name of the linear, such as model.layers.0.self_attn.q_proj


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """Linears that read the same input and can be adapted, by canonical name; `is_expert`: which reads some tokens."""

    linears: tuple[str, ...]
    in_features: int
    out_features: tuple[int, ...]
    is_expert: bool = False


def lora_inputs(group: LoraGroup) -> list[str]:
    """Names of a (G, linears · blocks, K, 16), and of b (G, blocks · 16, N) for each linear; all float32."""
    return [f"{'+'.join(group.linears)}.lora_A", *(f"{linear}.lora_B" for linear in group.linears)]


@dataclass(frozen=True, slots=True)
class XLoraRecord:
    """`num_sets`: of scalings that a token has. `scaling_pass`: each adapter's scaling in the first pass."""

    engines: Mapping[KVDtype, str]  # serving graph file of each KV cache type
    adapters: tuple[str, ...]
    num_sets: int
    scaling_pass: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CudaRecord:
    """Files of the graphs for CUDA: the one that serves, and the one that copies slots."""

    engine: str
    slots: str


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter that the package carries. `file`: a of each linear as (rank, K), b as (N, rank), its scale included.

    `parent`: the base that it says it belongs to. `generation`: names its contents.
    """

    file: str
    parent: str | None
    generation: str


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """What became of one tensor of the checkpoint."""

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and sha256 of one file of the package."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package is: read before anything else of it."""

    compiler: str
    name: str
    architecture: str
    vocab_size: int
    context_length: int
    rope_rows: int  # rows of the RoPE table: the largest total_sequence_length the serving graph takes
    rope_switch: int | None  # requests of more tokens use the table's second half, which begins at rope_rows
    grouped_decode: bool  # the serving graph has a window for slots that decode; else they are chunks of one token
    kv: KVGeometry
    engines: Mapping[KVDtype, str]  # serving graph file of each KV cache type
    lora_engines: Mapping[KVDtype, str]  # the same, taking adapters
    lora: tuple[LoraGroup, ...]  # what adapters can adapt
    xlora: XLoraRecord | None
    accuracy: str  # "int8" or "float32": what activations become inside quantized matmuls
    row_multiple: int  # T and R are padded to a multiple of this, or of 2, for batch invariance; machines differ
    invariant: str  # "yes", or "no, because ..."
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    tensors: Mapping[str, TensorRecord]
    files: Mapping[str, FileRecord]
    adapters: Mapping[str, AdapterRecord] = field(default_factory=dict)  # to load with it, by name
    active_adapters: tuple[str, ...] = ()  # those of them that requests get that do not say
    cuda: CudaRecord | None = None  # None for X-LoRA, and in packages of before
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError when the text is not a manifest of this schema."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw["schema"] != SCHEMA:
                raise ValueError(f"it is of schema {raw['schema']}, this version reads {SCHEMA}")
            return cls(
                **raw
                | {
                    "kv": KVGeometry(**raw["kv"]),
                    "lora": tuple(_lora_group(each) for each in raw["lora"]),
                    "xlora": None if raw["xlora"] is None else _xlora_record(raw["xlora"]),
                    "eos_token_ids": tuple(raw["eos_token_ids"]),
                    "tensors": {k: TensorRecord(v["type"], tuple(v["shape"])) for k, v in raw["tensors"].items()},
                    "files": {k: FileRecord(**v) for k, v in raw["files"].items()},
                    "adapters": {k: AdapterRecord(**v) for k, v in raw.get("adapters", {}).items()},
                    "active_adapters": tuple(raw.get("active_adapters", ())),
                    "cuda": None if raw.get("cuda") is None else CudaRecord(**raw["cuda"]),
                }
            )
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error


def _lora_group(raw: Mapping[str, Any]) -> LoraGroup:
    return LoraGroup(tuple(raw["linears"]), raw["in_features"], tuple(raw["out_features"]), raw["is_expert"])


def _xlora_record(raw: Mapping[str, Any]) -> XLoraRecord:
    return XLoraRecord(raw["engines"], tuple(raw["adapters"]), raw["num_sets"], tuple(raw["scaling_pass"]))
