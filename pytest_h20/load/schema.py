"""The JSON Schema of `CellResult.to_json`, derived from the dataclasses: `schema.json` is its output.

python -m pytest_h20.load.schema > pytest_h20/load/schema.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from typing import Any

from pytest_h20.load.loop import OUTCOMES
from pytest_h20.load.result import SCHEMA, CellResult

_PRIMITIVES = {int: "integer", float: "number", str: "string", bool: "boolean"}
_STATUS = ("ok", "failed", "unknown")


def build() -> dict[str, Any]:
    """The schema as a document."""
    definitions: dict[str, Any] = {}
    root = _object(CellResult, definitions)
    root["properties"]["schema"] = {"const": SCHEMA}
    root["properties"]["cell_id"] = {"type": "string", "pattern": r"^in\d+-out\d+-c\d+$"}
    root["properties"]["trustworthy"] = {"type": "boolean"}
    root["required"] = sorted([*root["required"], "cell_id", "trustworthy"])
    definitions["Sanity"]["properties"]["status"] = {"enum": list(_STATUS)}
    words = [*OUTCOMES, "failed"]  # "failed": other generators do not say how
    definitions["RequestCounts"]["properties"]["outcomes"]["propertyNames"] = {"enum": words}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Result of one throughput cell",
        "description": "Latencies in ms, rates per second, in model time (wall time x time_scale); see docs/metrics.md",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {name: _of(hint, definitions) for name, hint in hints.items()}
    return {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [_of(argument, definitions) for argument in arguments if argument is not type(None)]
        return {"anyOf": [*kinds, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": _PRIMITIVES[hint]}


if __name__ == "__main__":
    json.dump(build(), sys.stdout, indent=1)
    sys.stdout.write("\n")
