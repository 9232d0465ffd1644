"""What is published about the models that are known here (``published.json``, with its sources): what weights are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources

from pydantic import JsonValue

from pytest_h20.checks.weights.facts import Tokenizer
from pytest_h20.config.inventory import Model
from pytest_h20.core.model import Frozen


class Revision(Frozen):
    """One published model. ``sha256``: of the files whose digest could be read; ``missing``: what could not."""

    sha256: dict[str, str]
    source: str
    missing: str


class Config(Frozen):
    """Fields of config.json and their published values."""

    fields: dict[str, JsonValue]
    source: str


class TokenizerRule(Frozen):
    """What tokenizer files of the family contain. ``template``: words of the chat template."""

    bos_token: str
    eos_token: str
    template: tuple[str, ...]
    source: str


class Published(Frozen):
    """The whole file."""

    origin: str
    config: Config
    tokenizer: TokenizerRule
    revisions: dict[str, Revision]


@lru_cache(maxsize=1)
def published() -> Published:
    """The data of the package."""
    return Published.model_validate_json(resources.files("pytest_h20.checks.weights").joinpath("published.json").read_bytes())


def revision_of(model: Model) -> tuple[str, Revision | None]:
    """Which published model a folder is called by: its name, or that of the hub's cache. ("", None) when it has none of these names."""
    if model.kind != "deepseek-r1":
        return "", None
    parts = [part.lower() for part in model.on_host.split("/")]
    for name, revision in published().revisions.items():
        if parts and (parts[-1] == name.lower() or f"models--deepseek-ai--{name.lower()}" in parts):
            return name, revision
    return "", None


def config_problems(config: Mapping[str, JsonValue]) -> Iterator[str]:
    """Fields that are not as published, with both values. A field inside another is named with a dot."""
    for name, wanted in published().config.fields.items():
        have = config.get(name)
        if isinstance(wanted, dict):
            inner = have if isinstance(have, dict) else {}
            # What newer files call rope_type is type in the published ones.
            inner = {"type": inner.get("rope_type"), **inner}
            for key, value in wanted.items():
                if inner.get(key) != value:
                    yield f"{name}.{key} is {inner.get(key)!r}, published {value!r}"
        elif have != wanted or isinstance(have, bool) is not isinstance(wanted, bool):
            yield f"{name} is {have!r}, published {wanted!r}"


def tokenizer_problems(tokenizer: Tokenizer, config: Mapping[str, JsonValue]) -> Iterator[str]:
    """What is not as in a tokenizer of the family, or does not fit config.json."""
    rule = published().tokenizer
    for key in ("bos_token", "eos_token"):
        wanted, have = getattr(rule, key), getattr(tokenizer, key)
        if have != wanted:
            yield f"{key} of the tokenizer is {have!r}, published {wanted!r}"
        elif tokenizer.vocabulary is not None and tokenizer.ids.get(have) != config.get(f"{key}_id"):
            yield f"{key} has id {tokenizer.ids.get(have)}, config.json says {config.get(f'{key}_id')}"
    size = config.get("vocab_size")
    if tokenizer.largest is not None and isinstance(size, int) and tokenizer.largest >= size:
        yield f"the tokenizer has id {tokenizer.largest}, vocab_size is {size}"
    absent = [word for word in rule.template if word not in tokenizer.template]
    if absent:
        yield f"the chat template has no {' and no '.join(absent)}"
