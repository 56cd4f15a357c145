"""Greedy chat with a compiled package in plain onnxruntime: nothing of mistralrs-onnx is imported.

usage: python plain_onnxruntime.py PACKAGE [PROMPT]        needs: onnxruntime tokenizers jinja2 numpy
"""

import json
import sys
from pathlib import Path

import jinja2.sandbox
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

package = Path(sys.argv[1])
question = sys.argv[2] if len(sys.argv) > 2 else "Why is the sky blue?"
config = json.loads((package / "genai_config.json").read_text())["model"]
template = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
    (package / "chat_template.jinja").read_text()
)
tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
prompt = template.render(messages=[{"role": "user", "content": question}], add_generation_prompt=True)
ids = tokenizer.encode(prompt, add_special_tokens=False).ids

session = ort.InferenceSession(str(package / "model.onnx"), providers=["CPUExecutionProvider"])
past_inputs = [i for i in session.get_inputs() if i.name.startswith("past_key_values.")]
past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in past_inputs}
fed, answer = 0, []
while len(answer) < 64:
    new = np.array([ids[fed:]], np.int64)
    feeds = {
        "input_ids": new,
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(fed, len(ids))[None],
    }
    logits, *present = session.run(None, feeds | past)
    past = dict(zip(past, present, strict=True))
    fed = len(ids)
    token = int(logits[0, -1].argmax())
    if token in config["eos_token_id"]:
        break
    ids.append(token)
    answer.append(token)
print(tokenizer.decode(answer))
