"""Schemas and expressions that hypothesis makes up."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import jsonschema
from hypothesis import Phase, given, settings

# Not date: the 29th of February may come in any year. Not time: jsonschema does not know RFC 3339's small z.
FORMATS_CHECKED = jsonschema.FormatChecker(["uuid", "ipv4"])
INTEGERS = st.builds(
    lambda low, n: {"type": "integer", "minimum": low, "maximum": low + n}, st.integers(-99, 99), st.integers(0, 999)
)
STRINGS = st.builds(
    lambda low, n: {"type": "string", "minLength": low, "maxLength": low + n}, st.integers(0, 3), st.integers(0, 5)
)
FORMATS = st.sampled_from(["date", "uuid", "ipv4", "time"]).map(lambda name: {"type": "string", "format": name})
VALUES = st.lists(st.sampled_from(["a", "b", "é", "x y", 0, -1, 1.5, None, True]), min_size=1, unique_by=repr)
LEAVES = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}]),
    INTEGERS,
    STRINGS,
    FORMATS,
    VALUES.map(lambda values: {"enum": values}),
)
NAMES = st.sampled_from(["a", "b", "name", "é", "with space", 'q"'])


def arrays(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda inner, low, n: {"type": "array", "items": inner, "minItems": low, "maxItems": low + n},
        items,
        st.integers(0, 2),
        st.integers(0, 3),
    )


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda fields, count: {
            "type": "object",
            "properties": fields,
            "required": sorted(fields)[:count],
            "additionalProperties": False,
        },
        st.dictionaries(NAMES, values, max_size=4),
        st.integers(0, 4),
    )


def unions(options: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(options, min_size=1, max_size=3).map(lambda some: {"anyOf": some})


Json = st.recursive(LEAVES, lambda inner: st.one_of(arrays(inner), objects(inner), unions(inner)), max_leaves=8)
Regex = st.recursive(
    st.one_of(
        st.text("abcxyz019 _é", min_size=1, max_size=3),
        st.sampled_from(["[a-f]", "[^a-z\\n]", "\\.", "[0-9]", "\\+", "[α-γ]"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.builds(lambda x, times: f"(?:{x}){times}", inner, st.sampled_from(["?", "{2}", "{0,3}", "*", "+"])),
    ),
    max_leaves=6,
)


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """The same ones each time."""
    found: list[Any] = []

    @settings(max_examples=count, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    assert len(found) >= count * 0.9
    return found
