"""Greedy text with an adapter in plain onnxruntime: nothing of mistralrs-onnx is imported.

usage: python onnx_adapter.py PACKAGE PROMPT [ADAPTER]        needs: onnxruntime tokenizers numpy

PACKAGE: of mistralrs-compile lora --emit-onnx-adapter. ADAPTER: one of PACKAGE/adapters, else the model alone.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

package, prompt = Path(sys.argv[1]), sys.argv[2]
options = ort.RunOptions()
for name in sys.argv[3:4]:
    adapter = ort.LoraAdapter()
    adapter.Load(str(package / "adapters" / f"{name}.onnx_adapter"))
    options.add_active_adapter(adapter)

tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
quiet = ort.SessionOptions()
quiet.log_severity_level = 3  # else a warning for each matrix: an adapter may replace it, so it is not folded
session = ort.InferenceSession(str(package / "model.onnx"), quiet, providers=["CPUExecutionProvider"])
past_inputs = [i for i in session.get_inputs() if i.name.startswith("past_key_values.")]
past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in past_inputs}
ids = tokenizer.encode(prompt).ids
fed, length = 0, len(ids) + 16
while len(ids) < length:
    feeds = {
        "input_ids": np.array([ids[fed:]], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(fed, len(ids))[None],
    }
    logits, *present = session.run(None, feeds | past, options)
    past = dict(zip(past, present, strict=True))
    fed = len(ids)
    ids.append(int(logits[0, -1].argmax()))
print(tokenizer.decode(ids))
