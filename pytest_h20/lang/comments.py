"""The comments of a file in the reader's language. What is no comment, and a command or a field that is commented out, is a machine's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pytest_h20.lang import local
from pytest_h20.lang.arguments import wrapped

WIDTH = 120
_WHOLE = re.compile(r"( *)# (?! |[a-z_]+: )(.+)")
"""A line that is a comment of words."""
_BESIDE = re.compile(r"(.*\S {2,})# (.+)")
"""Words after a field."""


def comments(text: str) -> Iterator[str]:
    """What the comments say: a paragraph each, however many lines it takes."""
    found = list[str]()

    def keep(said: str) -> str:
        found.append(said)
        return said

    _lines(text, keep)
    yield from found


def translated(text: str) -> str:
    """The same file with its comments in the language that is spoken."""
    return "".join(f"{line}\n" for line in _lines(text, local))


def _lines(text: str, say: Callable[[str], str]) -> list[str]:
    done, paragraph, indent = list[str](), list[str](), ""

    def end() -> None:
        said = " ".join(paragraph)
        if said and (new := say(said)) != said:
            paragraph[:] = wrapped(new, WIDTH - len(indent) - 2)
        done.extend(f"{indent}# {line}" for line in paragraph)
        paragraph.clear()

    for line in text.splitlines():
        whole = _WHOLE.fullmatch(line)
        if not whole or (paragraph and whole[1] != indent):
            end()
        if whole:
            indent = whole[1]
            paragraph.append(whole[2])
        elif beside := _BESIDE.fullmatch(line):
            done.append(f"{beside[1]}# {say(beside[2])}")
        else:
            done.append(line)
    end()
    return done
