"""JSON Schemas of callers: what is taken, what is refused, and that neither takes long."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.schemas import MAX_BYTES, Schema, SchemaError, parse_json

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/node",
}


def schema(document: Any) -> Schema:
    return Schema(json.dumps(document))


def doubling(levels: int) -> dict[str, Any]:
    """A schema that visits its last part as many times as there are subsets of its levels."""
    definitions: dict[str, Any] = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": definitions | {f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"city": "Rome", "days": 3}, None),
        ({"city": 7}, "at ['city']: 7 is not of type \"string\""),
        ({}, '"city" is a required property'),
        ({"city": "Rome", "days": 0}, "at ['days']: 0 is less than the minimum of 1"),
        ("Rome", 'is not of type "object"'),
    ],
)
def test_a_value_is_checked_and_what_is_wrong_is_said(value: Any, problem: str | None) -> None:
    found = schema(WEATHER).problem(value)
    assert found is None if problem is None else found is not None and problem in found


def test_a_schema_may_refer_to_itself_below() -> None:
    tree = schema(TREE)
    value: dict[str, Any] = {"name": "leaf"}
    for _ in range(8):
        value = {"name": "inner", "children": [value]}
    assert tree.problem(value) is None
    value["children"][0]["children"][0]["name"] = 1
    assert tree.problem(value) is not None


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"a":' * 3_000, "is nested too deeply"),
        ('{"const": NaN}', "holds NaN"),
        ('{"type": "strnig"}', "is no JSON Schema"),
        ('{"description": "' + "x" * MAX_BYTES + '"}', "is longer than"),
        (json.dumps({"const": json.loads("[" * 40 + "]" * 40)}), "is nested more than"),
        ('{"$ref": "https://example.test/schema.json"}', "refers to 'https://example.test"),
        ('{"$ref": "file:///etc/passwd"}', "refers to 'file:///etc"),
        ('{"properties": {"a": {"$ref": "other.json#/a"}}}', "refers to 'other.json"),
        ('{"$ref": "#/$defs/absent"}', "which is not there"),
        ('{"$ref": "#"}', "refers to itself without an end"),
        ('{"allOf": [{"anyOf": [{"$ref": "#"}]}]}', "refers to itself without an end"),
        ('{"$id": "https://example.test/", "type": "string"}', "uses $id"),
        ('{"$dynamicRef": "#x"}', "uses $dynamicRef"),
        ('{"pattern": "((a{1000}){1000}){1000}"}', "is no JSON Schema"),
        ('{"pattern": "(?=a)a"}', "is no JSON Schema"),
        (json.dumps(doubling(24)), "combines too many"),
        (json.dumps({"properties": {"a": {"items": {"items": {"items": {"$ref": "//x"}}}}}}), "refers to '//x'"),
    ],
)
def test_what_is_refused_is_refused_at_once_and_in_one_clause(text: str, clause: str) -> None:
    started = time.perf_counter()
    with pytest.raises(SchemaError) as caught:
        Schema(text)
    assert clause in str(caught.value)
    assert time.perf_counter() - started < 5


def test_a_pattern_takes_no_longer_than_its_text() -> None:
    assert schema({"pattern": "^(a+)+$"}).problem("a" * 50_000 + "b") is not None


def test_a_value_that_a_schema_multiplies_is_not_checked() -> None:
    branching = {"patternProperties": {f"{letter}|x": {"$ref": "#"} for letter in "abcdefgh"}}
    value: dict[str, Any] = {}
    for _ in range(20):
        value = {"x": value}
    assert schema(branching).problem(value) == "it is too large and too deeply nested to be checked"


def test_a_value_that_is_too_deep_is_told() -> None:
    value: Any = 1
    for _ in range(500):
        value = [value]
    assert schema({}).problem(value) == "it is nested more than 32 levels deep"


KEYWORDS = st.sampled_from(["allOf", "anyOf", "oneOf"])
SUBSCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "object"}, {"$ref": "#/$defs/x"}, {"$ref": "#"}, True]),
    lambda inner: st.one_of(
        st.builds(lambda keyword, parts: {keyword: parts}, KEYWORDS, st.lists(inner, min_size=1, max_size=4)),
        st.builds(lambda a, b: {"properties": {"a": a}, "patternProperties": {"a": b}}, inner, inner),
        st.builds(lambda a, b: {"items": a, "contains": b}, inner, inner),
    ),
    max_leaves=12,
)
VALUES = st.recursive(
    st.sampled_from(["text", 1, None]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.fixed_dictionaries({"a": inner})),
    max_leaves=12,
)


@settings(max_examples=200, deadline=5_000)
@given(top=SUBSCHEMAS, definition=SUBSCHEMAS, value=VALUES)
def test_whatever_is_taken_is_checked_in_time(top: Any, definition: Any, value: Any) -> None:
    try:
        taken = schema({"$defs": {"x": definition}, "allOf": [top]})
    except SchemaError:
        return
    taken.problem(value)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1} {', "[" * 100_000])
def test_what_is_not_json_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is n"):
        parse_json(text)
