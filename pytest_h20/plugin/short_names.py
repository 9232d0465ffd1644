"""The short names of the fixtures (``client`` for ``h20_client``), for a run that asked for a cluster.

They are words that other projects use, too. So they do not exist where the plugin is only installed, and give way to whoever else
defines them: a fixture of another plugin keeps its name here, a fixture of a conftest wins below its folder as pytest has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Literal

import pytest

SCOPES: dict[str, Literal["session", "function"]] = {
    "inventory": "session",
    "target": "session",
    "nodes": "session",
    "run": "session",
    "facts": "session",
    "weights": "session",
    "burn": "session",
    "wires": "session",
    "cluster": "session",
    "endpoint": "session",
    "client": "session",
    "nccl_logs": "session",
    "load": "session",
    "judge": "function",
    "alone": "function",
}
"""Short name → scope of the fixture it stands for."""


def plugin_of(names: Iterable[str]) -> ModuleType:
    """A plugin with a fixture for each of these names, which gives what its ``h20_`` fixture gives."""
    plugin = ModuleType("h20-short-names")
    for name in names:
        setattr(plugin, name, pytest.fixture(scope=SCOPES[name], name=name)(_short(name)))
    return plugin


def _short(name: str) -> Callable[..., object]:
    canonical = f"h20_{name}"

    def give(**values: object) -> object:
        return values[canonical]

    # pytest finds what a fixture needs by the names of its arguments.
    give.__signature__ = inspect.Signature([inspect.Parameter(canonical, inspect.Parameter.KEYWORD_ONLY)])  # type: ignore[attr-defined]
    give.__doc__ = f"Short for ``{canonical}``."
    return give


def defined_by(plugin: object) -> set[str]:
    """Those of the short names that a plugin or conftest defines as fixtures of its own."""
    found = set()
    for place in (plugin, type(plugin)):
        for attribute, value in _attributes(place):
            # pytest 8.4 and later, and before
            marker = getattr(value, "_fixture_function_marker", None) or getattr(value, "_pytestfixturefunction", None)
            if marker is not None:
                found.add(getattr(marker, "name", None) or attribute)
    return found & set(SCOPES)


def _attributes(place: object) -> list[tuple[str, Any]]:
    try:
        return list(vars(place).items())
    except TypeError:  # a plugin may be any object
        return []
