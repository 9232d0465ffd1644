"""The report people open: parts for pytest-html 4, and whole pages of our own."""

from __future__ import annotations

from pytest_h20.report.html.page import comparison_page, page, run_page, summary_html, title

__all__ = ["comparison_page", "page", "run_page", "summary_html", "title"]
