"""HTML that is escaped by construction: text becomes markup only through :func:`tag`, and leaves by the door on its way, in the
language of who reads it (:mod:`pytest_h20.lang`); what stands in ``code`` and ``pre`` is nobody's language."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from pytest_h20.core.door import shown
from pytest_h20.lang import local


class Html(str):
    """Text that is markup already. Only this module makes it."""

    __slots__ = ()


Child = Html | str | int | float | None | Iterable["Child"]
_VOID = frozenset({"br", "meta", "link", "hr", "line", "rect", "circle", "path", "polyline", "polygon"})
_VERBATIM = frozenset({"code", "pre"})
_SAID = frozenset({"title", "aria_label", "data_label"})
"""Attributes that are read by people."""
NOTHING = Html("")


def render(child: Child, *, verbatim: bool = False) -> str:
    """A child as markup: text is escaped, None is nothing, a list is its members. ``verbatim``: the text stays in its own language."""
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, (str, int, float)):
        return escape(_said(child, verbatim) if isinstance(child, str) else str(child), quote=True)
    return "".join(render(item, verbatim=verbatim) for item in child)


def _said(text: str, verbatim: bool) -> str:
    """A text as it may leave, in the reader's language: a secret is taken out before anything is looked up."""
    return shown(text) if verbatim else local(shown(text))


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """``tag("td", "a<b", class_="num", aria_label="x")``. ``_`` at the end is dropped, ``_`` inside becomes ``-``.

    An attribute that is None or False is left out, True stands alone.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        words.append(attribute if value is True else f'{attribute}="{escape(_said(str(value), key not in _SAID), quote=True)}"')
    start = " ".join(words)
    if name in _VOID:
        return Html(f"<{start}/>")
    return Html(f"<{start}>{''.join(render(child, verbatim=name in _VERBATIM) for child in children)}</{name}>")


def table(caption: str, head: Iterable[str], rows: Iterable[Html], class_: str | None = None) -> Html:
    """A table with its name. ``head``: what its columns are called; nothing where each row names itself and has one value."""
    names = [tag("th", name, scope="col") for name in head]
    return tag("table", tag("caption", caption), tag("thead", tag("tr", names)) if names else None, tag("tbody", rows), class_=class_)


def join(*children: Child) -> Html:
    """Several children as one piece of markup."""
    return Html("".join(render(child) for child in children))


def svg(width: float, height: float, title: Child, description: Child, *children: Child, key: str) -> Html:
    """An image that scales with its column, named for people who do not see it. ``key`` makes its ids unique on the page."""
    return tag(
        "svg",
        tag("title", title, id=f"{key}-t"),
        tag("desc", description, id=f"{key}-d"),
        *children,
        # viewBox keeps its capital: HTML parsers mend the case of SVG attributes, XML ones do not.
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
        class_="h20-svg",
    )


def stylesheet(css: str) -> Html:
    """A ``<style>`` element. ``css`` is our own file, never data."""
    if "</" in css:
        raise ValueError("a stylesheet must not contain markup")
    return Html(f"<style>{css}</style>")


def script(text: str) -> Html:
    """A ``<script>`` element with a constant of ours, never data."""
    if "</" in text:
        raise ValueError("a script must not contain markup")
    return Html(f"<script>{text}</script>")
