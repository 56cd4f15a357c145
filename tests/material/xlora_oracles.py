"""Two oracles of X-LoRA over tiny models: PEFT's, and the older formula by hooks on the base model of transformers.

What PEFT 0.21 does, and where it departs from the two passes with caches that mistral.rs has:

- Each forward runs two passes over all of its tokens. It refuses `use_cache`, so that each decode step computes the
  scalings of the whole sequence anew. Attention is causal and scalings are per token, so that those of earlier tokens
  never change: a step equals the last position of one forward over all tokens, and equals caches kept for each pass.
- The scaling pass calls `disable_adapter_layers`, which X-LoRA's layers do not look at. What they compute there is what
  the dummy scalings say, `scaling_pass_value` for each adapter: none at 0. These go through top-k and its softmax as
  others do: with `enable_softmax_topk` a value that is not 0 becomes 1 / N, or 1 / k. Which of equal values
  `torch.topk` takes is not defined (for three adapters the first ones).
- The classifier reads `hidden_states[-1]`, which is after the final norm.
- Top-k and `enable_softmax_topk` are done in each layer, after the softmax over adapters. `enable_softmax_topk` works
  without `top_k_lora` too, has no temperature, and leaves zeros 0. The log of scalings has them before all that.
- `global_scaling_weight` counts in both passes.
- Layers are numbered in the order of `named_modules`; all that any adapter adapts count.
- ReLU and biases are always there; dropout has a number in `layers` only if `xlora_dropout_p` > 0.
- Adapters must be called 0, 1, ...: forward fails with a KeyError for other names.
- `save_pretrained` takes `layers.0` of the classifier for a tensor of adapter 0, so that the file at the top lacks it;
  `0/adapter_model.safetensors` has it as `layers.weight` (with four adapters and depth 2 so `layers.3`, in `3/`).
  Those folders hold no usable adapters: weights of the base, and LoRA of some layers only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_xlora import PEFT_PREFIX, TinyXLora, stored_tensors
from xlora_reference import linear, scalings

Array = NDArray[Any]

PEFTS_KEYS = (
    *("hidden_size", "enable_softmax", "enable_softmax_topk", "softmax_temperature", "layerwise_scalings"),
    *("top_k_lora", "xlora_depth", "xlora_size", "xlora_dropout_p", "scaling_pass_value", "global_scaling_weight"),
)


def load(folder: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)  # matrices are too small to share
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.config.use_cache = False
    return model.eval()


def modules_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Linear layers of a model but the head, in its order: Hugging Face name to (N, K)."""
    import torch

    return {
        name: (each.out_features, each.in_features)
        for name, each in load(folder).named_modules()
        if type(each) is torch.nn.Linear and name != "lm_head"
    }


def peft_model(base: Path, xlora: TinyXLora) -> Any:
    """PEFT's model of what `write_xlora` wrote, in either layout. `xlora.modules` must be in the order of the base."""
    import torch
    from peft import XLoraConfig, get_peft_model

    config = {key: value for key, value in xlora.config.items() if key in PEFTS_KEYS}
    assert xlora.config["xlora_depth"] == 1 or xlora.config["enable_relu_and_dropout"], "PEFT always has ReLU"
    adapters = {str(i): str(xlora.folder / name) for i, name in enumerate(xlora.names)}
    model = get_peft_model(load(base), XLoraConfig(task_type="CAUSAL_LM", adapters=adapters, **config))
    linears = [(weight, np.zeros(len(weight), np.float32) if bias is None else bias) for weight, bias in xlora.linears]
    tensors = stored_tensors(xlora.config, linears, "peft")
    classifier = model.base_model.internal_xlora_classifier
    classifier.load_state_dict({k.replace(PEFT_PREFIX, "layers"): torch.from_numpy(v) for k, v in tensors.items()})
    return model.eval()


def answer(model: Any, ids: list[int]) -> Array:
    """Logits of all positions, (len(ids), vocab), from one forward."""
    import torch

    with torch.no_grad():
        logits: Array = model(torch.tensor([ids])).logits[0].numpy().copy()
    return logits


def step_by_step(model: Any, ids: list[int], prompt: int) -> Array:
    """Logits of the prompt's last position and of each decode step, each from a forward over all tokens so far."""
    return np.stack([answer(model, ids[:end])[-1] for end in range(prompt, len(ids) + 1)])


def save_as_peft(model: Any, folder: Path) -> Path:
    """What PEFT saves; adapters of `write_xlora` are elsewhere, and `read_xlora` is told where."""
    model.save_pretrained(folder)
    return folder


def by_hand(base: Path, xlora: TinyXLora, ids: list[int], frozen: int | None = None) -> Array:
    """Logits (len(ids), vocab) by the older formula, each pass over all tokens.

    `frozen`: a position whose scalings all later ones take too: the last that had its own in the non-granular mode.
    """
    model, config = load(base), xlora.config
    num_layers, count = len(xlora.modules), len(xlora.names)
    dummy = np.full((len(ids), num_layers, count), config["scaling_pass_value"])
    hidden = _run(model, xlora, ids, dummy).hidden_states[-1][0].numpy()
    made = scalings(hidden, xlora.linears, config, num_layers)
    if frozen is not None:
        made[frozen + 1 :] = made[frozen]
    logits: Array = _run(model, xlora, ids, made).logits[0].numpy().copy()
    return logits


def _run(model: Any, xlora: TinyXLora, ids: list[int], scales: Array) -> Any:
    import torch

    weight = xlora.config.get("global_scaling_weight", 1.0)
    handles = []
    for number, name in enumerate(xlora.modules):
        experts = [xlora.expert(name, i) for i in range(len(xlora.names))]
        compute = partial(linear, experts=experts, scales=scales[:, number], g=weight)
        handles.append(model.get_submodule(name).register_forward_hook(partial(_replaced, compute)))
    with torch.no_grad():
        made = model(torch.tensor([ids]), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return made


def _replaced(compute: Callable[..., Array], module: Any, inputs: Any, output: Any) -> Any:
    import torch

    y = torch.from_numpy(compute(inputs[0][0].numpy(), module.weight.numpy())).float()[None]
    assert y.shape == output.shape
    return y if module.bias is None else y + module.bias
