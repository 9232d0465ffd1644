"""What mkdocs.yml cannot say: links of docs/ that lead to other files of the repository, and what a screen reader says.

On GitHub ``../CONTRIBUTING.md`` is a link. The site has docs/ only: there it leads to the repository where ``REPO_URL`` names one, else the
path stands beside the words. A file that is not there is a warning, and ``mkdocs build --strict`` fails.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)\s]*)\)")
log = logging.getLogger("mkdocs.hooks.site")


def outside(markdown: str, page: str, root: Path, repository: str = "") -> str:
    """The text of ``docs/PAGE`` with its links out of docs/ rewritten. ``root``: the clone; ``repository``: its URL, or nothing."""

    def rewritten(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, _, heading = target.partition("#")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), path))
        if path.startswith("docs/"):
            return found[0]
        if not (root / path).exists():
            log.warning("docs/%s: %s: no such file in the repository", page, target)
        if repository:
            return f"[{words}]({repository.rstrip('/')}/blob/main/{path}{'#' + heading if heading else ''})"
        return words if path in words else f"{words} (`{path}`)"

    return LINK.sub(rewritten, markdown)


def on_config(config: Any) -> None:
    """The repository, where somebody says where it is."""
    config.repo_url = os.environ.get("REPO_URL") or None


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Before Markdown is read."""
    return outside(markdown, page.file.src_uri, Path(config.config_file_path).parent, config.repo_url or "")


def spoken(output: str, page: str) -> str:
    """What a screen reader says of a page: its own language, and a name for the search, which the theme gives none."""
    chinese = page.startswith("zh/")
    named = output.replace('role="dialog">', f'role="dialog" aria-label="{"搜索" if chinese else "Search"}">', 1)
    return named.replace('<html lang="en"', '<html lang="zh-CN"', 1) if chinese else named


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The page as it is written."""
    return spoken(output, page.file.src_uri)
