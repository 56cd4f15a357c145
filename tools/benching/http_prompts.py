"""Prompts for a server whose tokenizer is not known: words of about one token each, or lines of a file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

# Common words, with a space before them one token in almost every vocabulary.
TEXT = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what
its about than into them can only other time new some could these two may first then do any like my now over
such our man me even most made after also did many before must through years where much your way well down
should because long each just those people how too little state good very make world still see own work men
day get here between both life being under three never know same last another while us off might great go come
since against right came take used himself few house use during without again place around however home small
found thought went say part once high general upon school every
"""
WORDS = TEXT.split()


def random_prompts(count: int, num_words: int, seed: int) -> list[str]:
    """The same ones for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=num_words)) for _ in range(count)]


def read_prompts(path: Path) -> list[str]:
    """One a line, a JSON string or an object with "prompt". Raises ValueError."""
    prompts = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            prompts.append(_prompt(line, f"{path}, line {i}"))
    if not prompts:
        raise ValueError(f'{path} is empty: write a prompt a line, like {{"prompt": "The sea is"}}')
    return prompts


def _prompt(line: str, place: str) -> str:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: this is no JSON: {error}") from error
    prompt = said.get("prompt") if isinstance(said, dict) else said
    if not isinstance(prompt, str):
        raise ValueError(f'{place}: a line must be a JSON string or an object with "prompt", a string')
    return prompt


def sample(prompts: Sequence[str], count: int, seed: int) -> list[str]:
    """In random order; each comes again only when all were used as often."""
    rng = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(prompts, min(len(prompts), count - len(drawn)))
    return drawn
