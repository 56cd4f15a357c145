"""What transformers answers to the tiny models, kept in files so that tests need neither it nor torch.

`python tests/material/golden.py` writes the files anew; a test with marker `oracle` holds them to transformers.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tiny_models import IDS, NUM_KEPT, TINY, Described, Tiny, write_folder

FOLDER = Path(__file__).parent / "golden"
MODELS, LOGITS = FOLDER / "models.json", FOLDER / "logits.npz"


class Golden(NamedTuple):
    """`logits`: of the last positions, the prompt's last one and one of each decode step, (NUM_KEPT, vocab)."""

    model: Described
    logits: NDArray[np.float32]


@cache
def read_golden() -> dict[str, Golden]:
    described = json.loads(MODELS.read_text(encoding="utf-8"))
    with np.load(LOGITS) as logits:
        return {name: Golden(_described(each), logits[name]) for name, each in described.items()}


def write_golden() -> None:
    answers = {name: ask_transformers(tiny) for name, tiny in TINY.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(_packed(golden.model))}" for name, golden in answers.items()]
    FOLDER.mkdir(exist_ok=True)
    MODELS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    np.savez_compressed(LOGITS, **{name: golden.logits for name, golden in answers.items()})


def ask_transformers(tiny: Tiny) -> Golden:
    """Names and shapes of tensors are those that transformers saves; it then loads our weights under them."""
    import torch
    import transformers

    config_class = f"{tiny.kind}{'Text' if tiny.kind == 'Gemma3' else ''}Config"
    model_class = getattr(transformers, f"{tiny.kind}ForCausalLM")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_class(getattr(transformers, config_class)(**tiny.config)).float().save_pretrained(folder)
        described = _read_described(folder)
        write_folder(described, folder)
        model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor([IDS])).logits[0].numpy()
    return Golden(described, logits[-NUM_KEPT:].copy())


def _read_described(folder: Path) -> Described:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["transformers_version"]
    with safe_open(folder / "model.safetensors", "np") as file:
        return Described(config, {key: tuple(file.get_slice(key).get_shape()) for key in sorted(file.keys())})


def _packed(model: Described) -> dict[str, object]:
    """Tensors by shape, and layers by number where they are alike, for these files are read by people too."""
    return {"config": model.config, "shapes": {name: list(shape) for name, shape in model.shapes.items()}}


def _described(packed: dict[str, dict[str, object]]) -> Described:
    return Described(packed["config"], {name: tuple(shape) for name, shape in packed["shapes"].items()})  # type: ignore[arg-type]


if __name__ == "__main__":
    write_golden()
