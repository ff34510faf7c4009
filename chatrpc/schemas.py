"""JSON Schemas that callers bring along: refused where they could do harm, else used to check what a model writes.

What harm they could do, and what stands against it: patterns that take for ever (an engine whose time is linear, with
a limit on a pattern's size), references to other places (none is followed but into the schema itself), sheer size
and depth (limits), and subschemas that multiply, by nested `allOf` and the like (an upper bound of the work, which is
told before anything is checked).
"""

from __future__ import annotations

import json
from typing import Any, Never

import jsonschema_rs

MAX_BYTES = 16 * 1024
"""Of a schema's JSON text."""
MAX_DEPTH = 32
"""Of a schema's nesting, and of a value's; deeper values are told to be wrong."""

# Subschemas that may be visited in checking one value. Some 20 million a second are.
_MOST_WORK = 5_000_000
# Levels of a value for which a schema's own work is told, when nothing is known of the value yet.
_SHALLOW = 2
_SHALLOW_WORK = 20_000
_PATTERN_OPTIONS = jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=1024 * 1024)

_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE = ("not", "if", "then", "else")
# Of each group, one applies to a child at most; all of `patternProperties` may.
_DESCENDING = (
    ("properties", "additionalProperties"),
    ("items", "prefixItems", "additionalItems"),
    ("contains",),
    ("propertyNames",),
    ("unevaluatedProperties",),
    ("unevaluatedItems",),
)
_REFUSED = ("$dynamicRef", "$recursiveRef", "$id", "id")


class SchemaError(Exception):
    """A schema cannot be taken; the text is a clause that says why."""


class Schema:
    """A schema that is safe to use.

    Args:
        text: Its JSON.

    Raises:
        SchemaError: It is malformed, too large, or refers to something outside itself.
    """

    def __init__(self, text: str) -> None:
        if len(text.encode()) > MAX_BYTES:
            raise SchemaError(f"is longer than {MAX_BYTES} bytes")
        try:
            self.document = parse_json(text)
        except ValueError as error:
            raise SchemaError(str(error)) from None
        if not isinstance(self.document, dict):
            raise SchemaError("is not a JSON object")
        if _depth(self.document) > MAX_DEPTH:
            raise SchemaError(f"is nested more than {MAX_DEPTH} levels deep")
        self._costs: dict[tuple[int, int], int] = {}
        try:
            # To the bottom, so that every part that can ever be reached is looked at.
            self._cost(self.document, MAX_DEPTH, ())
            too_much = self._cost(self.document, _SHALLOW, ()) > _SHALLOW_WORK
        except RecursionError:
            too_much = True
        if too_much:
            raise SchemaError("combines too many subschemas with each other")
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                self.document, validate_formats=False, pattern_options=_PATTERN_OPTIONS, retriever=_nothing
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise SchemaError(f"is no JSON Schema: {_first_line(error)}") from None

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, for the model that wrote it; None where nothing is."""
        depth = _depth(value)
        if depth > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} levels deep"
        if self._cost(self.document, depth, ()) * _size(value) > _MOST_WORK:
            return "it is too large and too deeply nested to be checked"
        error = next(self._validator.iter_errors(value), None)
        if error is None:
            return None
        place = "".join(f"[{step!r}]" for step in error.instance_path)
        return f"at {place}: {_first_line(error)}" if place else _first_line(error)

    def _cost(self, schema: Any, depth: int, above: tuple[int, ...]) -> int:
        """Subschemas that are visited at most on the way from a value to one place `depth` levels inside it."""
        if not isinstance(schema, dict):
            return 1
        key = (id(schema), depth)
        known = self._costs.get(key)
        if known is not None:
            return known
        if id(schema) in above:
            raise SchemaError("refers to itself without an end")
        self._check(schema)
        path = (*above, id(schema))
        cost = 1 + sum(self._cost(each, depth, path) for each in self._in_place(schema))
        if depth > 0:
            # Below, the way begins anew: a schema may well be its own child's.
            for group in _DESCENDING:
                children = [child for keyword in group for child in _subschemas(schema.get(keyword), keyword)]
                cost += max((self._cost(child, depth - 1, ()) for child in children), default=0)
            patterns = _subschemas(schema.get("patternProperties"), "patternProperties")
            cost += sum(self._cost(child, depth - 1, ()) for child in patterns)
        # A bound far above the limit says as much as a larger one, in smaller numbers.
        self._costs[key] = cost = min(cost, 10 * _MOST_WORK)
        return cost

    def _in_place(self, schema: dict[str, Any]) -> list[Any]:
        found = [schema[keyword] for keyword in _IN_PLACE if keyword in schema]
        for keyword in _IN_PLACE_LISTS:
            listed = schema.get(keyword)
            found += listed if isinstance(listed, list) else []
        for keyword in ("dependentSchemas", "dependencies"):
            found += _subschemas(schema.get(keyword), "properties")
        if "$ref" in schema:
            found.append(self._referred(schema["$ref"]))
        return found

    @staticmethod
    def _check(schema: dict[str, Any]) -> None:
        for keyword in _REFUSED:
            if isinstance(schema.get(keyword), str):
                raise SchemaError(f"uses {keyword}; refer by $ref into the schema itself, such as #/$defs/name")

    def _referred(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            shown = repr(reference)[:60]
            raise SchemaError(f"refers to {shown}; refer into the schema itself, such as #/$defs/name")
        found: Any = self.document
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise SchemaError(f"refers to {reference[:60]!r}, which is not there")
        return found


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: It is none; the text is a clause that says why.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _no_constant(name: str) -> Never:
    raise ValueError(f"is not JSON: it holds {name}")


def _nothing(uri: str) -> Never:
    raise ValueError("only references into the schema itself are followed")


def _subschemas(value: Any, keyword: str) -> list[Any]:
    if keyword in ("properties", "patternProperties"):
        return list(value.values()) if isinstance(value, dict) else []
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    """Levels of nesting, 0 for a plain value; no more than one beyond the limit are counted."""
    depth, level = 0, [value]
    while depth <= MAX_DEPTH:
        level = [child for each in level for child in _children(each)]
        if not level:
            break
        depth += 1
    return depth


def _size(value: Any) -> int:
    count, pending = 0, [value]
    while pending:
        each = pending.pop()
        count += 1
        pending.extend(_children(each))
    return count


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]}…"
