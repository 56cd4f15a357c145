"""Which tokens end a reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Ends of turn that chat models use beside the one that their files name.
ENDS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<|eot|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<EOT>",
    "[EOT]",
)
# With both of these, <|end|> only ends one of several messages of a reply.
MESSAGES_END = (("<|return|>", "<|call|>"), ("<|flush|>", "<|calls|>"))


def end_ids(named: Iterable[int], added: Mapping[str, int]) -> tuple[int, ...]:
    """Ids that end a reply: those that files name, in their order, then those known by their text in `added`."""
    known = [added[text] for text in ENDS if text in added]
    ids = dict.fromkeys([*named, *known])
    if any(all(text in added for text in texts) for texts in MESSAGES_END):
        ids.pop(added.get("<|end|>", -1), None)
    return tuple(ids)
