"""What the processes of a run tell each other, as JSON: our own data classes and nothing that runs code when it is read.

A value is written as plain JSON; what JSON lacks is an object with one key that no data has: ``{"$": [kind, ...]}``. Classes are
named by module and name, and only data classes, enums and models of this package are made from a text.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from pytest_h20.core.errors import H20Error

_KEY = "$"
_PACKAGE = "pytest_h20."


def encode(value: object, clean: Callable[[Any], Any] = lambda data: data) -> str:
    """The value as text, its plain data passed through ``clean``. Raises ``H20Error`` for what is no plain data."""
    return json.dumps(clean(_plain(value)), ensure_ascii=False, allow_nan=False)


Lacking = Callable[[type, str], Any]
"""The value of a field that a record lacks: class, field. Raises ``ValueError`` where nothing may stand for it."""


def _complete(cls: type, field: str) -> Any:
    raise ValueError(f"{cls.__name__}.{field} is not there")


def decode(text: str, lacking: Lacking | None = None) -> Any:
    """The value of a text of ``encode``. Raises ``H20Error`` for anything else.

    ``lacking``: for what another version of this package kept. It gives the fields that version did not have; those that this one
    has no more are left out. Without it the fields are the same, or it is an error: processes of a run are of one version.
    """
    try:
        return _made(json.loads(text), lacking)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError, RecursionError) as error:
        raise H20Error(f"what a process of this run published cannot be read: {type(error).__name__}: {error}") from None


def _plain(value: object) -> Any:
    if isinstance(value, Enum):
        return {_KEY: ["enum", _name(type(value)), value.name]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KEY: ["float", repr(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {_KEY: ["bytes", base64.b64encode(value).decode()]}
    if isinstance(value, PurePath):
        return {_KEY: ["path", str(value)]}
    if is_dataclass(value) and not isinstance(value, type):
        return {_KEY: ["data", _name(type(value)), {f.name: _plain(getattr(value, f.name)) for f in fields(value)}]}
    if isinstance(value, BaseModel):
        return {_KEY: ["model", _name(type(value)), {k: _plain(v) for k, v in value.__dict__.items()}, sorted(value.model_fields_set)]}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {_KEY: ["named", _name(type(value)), [_plain(v) for v in value]]}
    if isinstance(value, tuple):
        return {_KEY: ["tuple", [_plain(v) for v in value]]}
    if isinstance(value, (set, frozenset)):
        return {_KEY: ["frozenset" if isinstance(value, frozenset) else "set", [_plain(v) for v in value]]}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not isinstance(k, Enum) for k in value) and _KEY not in value:
            return {k: _plain(v) for k, v in value.items()}
        return {_KEY: ["dict", [[_plain(k), _plain(v)] for k, v in value.items()]]}
    raise H20Error(f"{type(value).__module__}.{type(value).__qualname__} is no plain data and cannot be shared between processes")


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _made(value: Any, lacking: Lacking | None) -> Any:
    if isinstance(value, list):
        return [_made(v, lacking) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_KEY}:
        return {k: _made(v, lacking) for k, v in value.items()}
    kind, *rest = value[_KEY]
    if kind in ("data", "model", "enum", "named"):
        return _instance(lacking, kind, *rest)
    content = rest[0]
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind == "path":
        from pathlib import Path

        return Path(content)
    if kind == "dict":
        return {_made(k, lacking): _made(v, lacking) for k, v in content}
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](_made(v, lacking) for v in content)
    raise ValueError(f"kind {kind!r}")


def _instance(lacking: Lacking | None, kind: str, name: str, content: Any, given: Any = ()) -> Any:
    module, _, path = name.partition(":")
    if not module.startswith(_PACKAGE):
        raise ValueError(f"class {name!r} is none of this package")
    cls: Any = importlib.import_module(module)
    for part in path.split("."):
        cls = vars(cls)[part]
    if not isinstance(cls, type) or cls.__module__ != module:
        raise ValueError(f"{name!r} is no class of its module")
    if kind == "enum" and issubclass(cls, Enum):
        return cls[content]
    if kind == "named" and issubclass(cls, tuple):
        return cls(*(_made(v, lacking) for v in content))
    if kind == "model" and issubclass(cls, BaseModel):
        return cls.model_construct(set(given), **{k: _made(v, lacking) for k, v in content.items()})
    if kind == "data" and is_dataclass(cls):
        made = {k: _made(v, lacking) for k, v in content.items()}
        known = {f.name: f.init for f in fields(cls)}
        if lacking is None and set(made) - set(known):
            raise ValueError(f"{name!r} has other fields")
        fill = lacking or _complete
        return cls(**{field: made[field] if field in made else fill(cls, field) for field, init in known.items() if init})
    raise ValueError(f"{name!r} is no {kind}")
