"""The language of the people who read. Everything is said and recorded in English; it is put into their language where it is shown.

That edge is the HTML report, the last lines of the terminal and the text of an error. Ids, files and all that machines read stay English:
nothing below this edge knows that there is another language. :func:`local` is the whole of it; ``zh/*.json`` hold the words
(:mod:`pytest_h20.lang.catalogue` says how), and ``python tools/messages.py`` finds those that have none yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

LANGUAGES = {"en": "en", "zh": "zh-CN"}
"""``--h20-lang`` -> the tag of the language in HTML."""

_spoken = "en"


def of_locale(environ: Mapping[str, str] = os.environ) -> str:
    """The language of a locale: the first of ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` that is set decides."""
    name = next((value for key in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environ.get(key))), "")
    return "zh" if name.lower().replace("-", "_").split("_")[0].split(".")[0] == "zh" else "en"


def use(language: str | None = None) -> None:
    """From now on this process speaks it; for what is none of ``LANGUAGES``, that of the locale."""
    global _spoken
    _spoken = language if language in LANGUAGES else of_locale()


def spoken() -> str:
    """``en`` or ``zh``."""
    return _spoken


def tag() -> str:
    """The language as HTML names it: ``en`` or ``zh-CN``."""
    return LANGUAGES[_spoken]


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """This language for the time being."""
    before = _spoken
    use(language)
    try:
        yield
    finally:
        use(before)


def local(text: str) -> str:
    """A text of ours in the language that is spoken. What nobody has translated stays as it is, and nothing of it is lost."""
    if _spoken == "en" or not text:
        return text
    from pytest_h20.lang.catalogue import chinese

    return chinese().text(text)


def told(text: str) -> str:
    """What a command says when it cannot do its work, in the language of the locale."""
    use()
    return local(text)


def say(text: str, file: TextIO | None = None) -> None:
    """Print what a command found out, in the language that is spoken: each line is a text of its own."""
    print("\n".join(map(local, text.split("\n"))), file=file, flush=True)


def labelled(label: str, text: str) -> str:
    """A text of ours and what it is about: ``NOT ACCEPTED: node01 is gone``."""
    return f"{local(label)}{': ' if _spoken == 'en' else '：'}{local(text)}"


def listed(texts: Iterable[str]) -> str:
    """Texts of ours one after another, each in the language that is spoken: ``12 skipped, 3 fail``."""
    return (", " if _spoken == "en" else "，").join(local(text) for text in texts)
