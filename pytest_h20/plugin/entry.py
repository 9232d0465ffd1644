"""The pytest plugin, as thin as it can be: options, and one decision: is this run ours?

Everything else is imported only when a run asks for a cluster (``--h20-nodes``, ``--h20-attach``, ``--h20-replay``).
Installed beside another project's tests the plugin adds options and fixtures, and nothing happens.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_h20.core.setting import BY_DEST, OPTIONS, Option, Setting, resolve

ACCEPTANCE = Path(__file__).parents[1] / "acceptance"
ACTIVE_KEY: pytest.StashKey[object] = pytest.StashKey()
ALONE_KEY = pytest.StashKey[bool]()
MARKERS = (
    "h20_gate(name): the gate this test belongs to ("
    "environment, fabric, weights, compute, bringup, rdma, endpoint, reasoning, answers, throughput)",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The canonical ``--h20-*`` options, each with an ini of the same name."""
    group = parser.getgroup("h20", _help("H20 cluster acceptance"))
    for option in OPTIONS:
        group.addoption(f"--{option.name}", **_keywords(option))
        kind: Literal["args", "string"] = "args" if option.kind == "list" else "string"
        parser.addini(option.dest, _help(option.help), type=kind, default=None)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None, None, None]:
    """The short names ``--engine`` and ``--nodes`` come last: whoever else wants them, plugin or conftest, has them then."""
    yield
    group = parser.getgroup("h20")
    for option in OPTIONS:
        if option.alias and not _taken(parser, option.alias):
            with contextlib.suppress(ValueError, argparse.ArgumentError):
                group.addoption(option.alias, **{**_keywords(option), "help": _help(f"Short for --{option.name}")})


def _taken(parser: pytest.Parser, name: str) -> bool:
    """Whether somebody has an option of this name. Before pytest 9, adding it twice is told only when the command line is parsed again,
    as a traceback; nothing public lists the options, so an unknown inside of pytest's counts as "nobody has"."""
    groups = [*getattr(parser, "_groups", ()), getattr(parser, "_anonymous", None)]
    return any(name in getattr(o, "_long_opts", ()) for group in groups for o in getattr(group, "options", ()))


def _keywords(option: Option) -> dict[str, Any]:
    action = {"flag": "store_true", "list": "append", "text": "store"}[option.kind]
    keywords: dict[str, Any] = {"dest": option.dest, "action": action, "help": _help(option.help)}
    if option.kind != "flag":
        keywords["default"] = None
        keywords |= {k: v for k, v in (("metavar", option.metavar), ("choices", option.choices)) if v}
    return keywords


def _help(text: str) -> str:
    """What ``--help`` says, in the reader's language; for any other command line the text as it is, and no work."""
    if not {"-h", "--help"} & set(sys.argv):
        return text
    from pytest_h20 import lang

    given = re.findall(r"(?m)^--h20-lang[=\n](\w+)$", "\n".join(sys.argv))
    with lang.speaking(given[-1] if given else ""):
        if lang.spoken() == "en":
            return text
        from pytest_h20.lang.arguments import wrapped

        return "\n".join(wrapped(lang.local(text), shutil.get_terminal_size().columns - 26))


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """What other repositories may extend."""
    from pytest_h20.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register markers and fixtures; when the run is ours, hand over to ``active``."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    from pytest_h20.plugin import fixtures

    config.pluginmanager.register(fixtures, "h20-fixtures")
    settings = {o.dest: resolve(o, getattr(config.option, o.dest, None), config.getini) for o in OPTIONS}
    empty = [o.alias or f"--{o.name}" for o in OPTIONS if settings[o.dest].origin == "option" and settings[o.dest].value == ""]
    if empty:  # a variable of a script that is not set must not turn an acceptance into a run of something else
        raise _usage_error(f"{empty[0]}: is given without a value", settings)
    config.stash[ALONE_KEY] = settings["h20_engine"].origin == "option"
    asked = any(settings[name] for name in ("h20_nodes", "h20_attach", "h20_replay"))
    if asked and not config.option.help and not config.option.version:
        from pytest_h20.plugin.live import activate

        config.stash[ACTIVE_KEY] = activate(config, settings)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """An engine without a cluster starts nothing: said, for whoever gave one on the command line."""
    if ACTIVE_KEY in config.stash or not config.stash.get(ALONE_KEY, False):
        return []
    from pytest_h20.lang import local

    text = "h20: --engine alone tests nothing: give --nodes=INVENTORY.yaml, --nodes=rehearsal or --h20-attach=URL as well"
    return [local(text)]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--h20-plan`` prints and touches nothing: there is no test session."""
    plan = resolve(BY_DEST["h20_plan"], getattr(config.option, "h20_plan", None), config.getini)
    if not plan or config.option.help or config.option.version:
        return None
    from pytest_h20.plugin.live import inventory_hooks
    from pytest_h20.run.plan import main

    settings = {o.dest: resolve(o, getattr(config.option, o.dest, None), config.getini) for o in OPTIONS}
    return main(settings, inventory_hooks(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The suite selected without an inventory is a mistake, never a quiet skip."""
    if ACTIVE_KEY not in config.stash and any(ACCEPTANCE in item.path.parents for item in items):
        settings = {"h20_lang": resolve(BY_DEST["h20_lang"], getattr(config.option, "h20_lang", None), config.getini)}
        raise _usage_error(
            "the acceptance suite needs a cluster: give --nodes=INVENTORY.yaml (`python -m pytest_h20 example` prints one), "
            "--nodes=rehearsal for the embedded stand-in, or --h20-replay=RUN_DIR",
            settings,
        )


def _usage_error(text: str, settings: Mapping[str, Setting]) -> pytest.UsageError:
    from pytest_h20 import lang

    lang.use(settings["h20_lang"].value)
    return pytest.UsageError(lang.local(text))
