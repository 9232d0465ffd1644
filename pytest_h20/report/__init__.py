"""The verdict people sign: run folder, records, charts, comparison, history. No pytest in here.

Import the module you need (``report.run``, ``report.html``, ...): nothing is imported by this package itself.
"""

from __future__ import annotations
