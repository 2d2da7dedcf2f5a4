"""As much of JSON Schema as our own schema uses. volatility3 takes `jsonschema` where it is installed, and warns then."""

import re
from collections.abc import Callable
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
ANNOTATIONS = {"$schema", "$defs", "title", "description"}


def complaints(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "") -> list[str]:
    """The places where a value is not as a schema says, and the word of the schema."""
    return [
        found
        for word, wanted in schema.items()
        if word not in ANNOTATIONS
        for found in _of_word(value, word, wanted, root, where)
    ]


def _of_word(value: Any, word: str, wanted: Any, root: dict[str, Any], where: str) -> list[str]:
    if word == "$ref":
        return complaints(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, where)
    if word == "allOf":
        return [found for one in wanted for found in complaints(value, one, root, where)]
    if word == "properties":
        there = value if isinstance(value, dict) else {}
        inner = [(there[key], one, f"{where}.{key}") for key, one in wanted.items() if key in there]
        return [found for part, one, place in inner for found in complaints(part, one, root, place)]
    if word == "additionalProperties":
        inner = [(part, wanted, f"{where}.{key}") for key, part in value.items()]
        return [found for part, one, place in inner for found in complaints(part, one, root, place)]
    if word == "items":
        inner = [(part, wanted, f"{where}[{number}]") for number, part in enumerate(value or [])]
        return [found for part, one, place in inner for found in complaints(part, one, root, place)]
    return [] if _holds(value, word, wanted, root) else [f"{where}: {word}"]


def _holds(value: Any, word: str, wanted: Any, root: dict[str, Any]) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    tests: dict[str, Callable[[], bool]] = {
        "const": lambda: value == wanted,
        "enum": lambda: value in wanted,
        "type": lambda: any(
            isinstance(value, TYPES[name]) and (name != "integer" or is_number)
            for name in ([wanted] if isinstance(wanted, str) else wanted)
        ),
        "required": lambda: not isinstance(value, dict) or set(wanted) <= set(value),
        "pattern": lambda: not isinstance(value, str) or re.search(wanted, value) is not None,
        "minimum": lambda: not is_number or value >= wanted,
        "maximum": lambda: not is_number or value <= wanted,
        "oneOf": lambda: sum(not complaints(value, one, root) for one in wanted) == 1,
    }
    return bool(tests[word]())
