"""Runs over time: an embedded SQLite file by default, any SQLAlchemy URL for a team.

Both ways run the same SQL (portable, named parameters as ``:name``); only :class:`Transaction` differs. SQLAlchemy comes with the
extra ``store`` and is imported only for a URL.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pytest_h20.core.errors import UsageError
from pytest_h20.report.calibrate import merge_repeats
from pytest_h20.report.model import METRICS, RunView
from pytest_h20.report.run import load_run

DEFAULT_FILE = "history.sqlite"

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS h20_runs (
        run VARCHAR(200) PRIMARY KEY, started VARCHAR(40) NOT NULL, name VARCHAR(100) NOT NULL, engines VARCHAR(100) NOT NULL,
        mode VARCHAR(20) NOT NULL, complete INTEGER NOT NULL, accepted INTEGER NOT NULL, green INTEGER NOT NULL,
        reason TEXT NOT NULL, path TEXT NOT NULL, fingerprint TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS h20_cells (
        run VARCHAR(200) NOT NULL, engine VARCHAR(100) NOT NULL, profile VARCHAR(100) NOT NULL, cell VARCHAR(60) NOT NULL,
        output_throughput DOUBLE PRECISION, mean_tpot_ms DOUBLE PRECISION, mean_ttft_ms DOUBLE PRECISION,
        status VARCHAR(10) NOT NULL, PRIMARY KEY (run, engine, profile, cell))""",
)
Row = Mapping[str, Any]


class Transaction(Protocol):
    """One transaction: ``execute`` with named parameters, rows as mappings."""

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Run one statement; an empty list for statements without rows."""


@dataclass(frozen=True)
class PastRun:
    """One run as the history lists it. ``started``: ISO 8601 UTC."""

    run: str
    started: str
    name: str
    engines: tuple[str, ...]
    mode: str
    complete: bool
    accepted: bool
    green: bool
    reason: str
    path: str


@dataclass(frozen=True)
class Point:
    """A figure of one cell in one run. ``name``, ``mode``, ``profile``, ``image``: points that differ in one are not one line."""

    run: str
    started: str
    accepted: bool
    value: float
    name: str = ""
    mode: str = ""
    profile: str = ""
    image: str = ""

    @property
    def line(self) -> tuple[str, ...]:
        """What must be the same for two points to be comparable: cluster, kind of run, profile, image."""
        return self.name, self.mode, self.profile, self.image


class History:
    """The store. ``where``: a file (SQLite), or a SQLAlchemy URL (``postgresql+psycopg://...``).

    Every method raises ``UsageError`` when the store cannot be reached or is not ours to read.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = str(where)
        self._engine: Any = _engine(self.where) if "://" in self.where else None

    def add(self, view: RunView) -> None:
        """Keep a run; one that is there already is replaced."""
        with self._transaction() as db:
            for table in ("h20_cells", "h20_runs"):
                db.execute(f"DELETE FROM {table} WHERE run = :run", {"run": view.header.run})
            row = _run_row(view)
            db.execute(_insert("h20_runs", row), row)
            for cell in _cell_rows(view):
                db.execute(_insert("h20_cells", cell), cell)

    def runs(self, *, name: str = "", engine: str = "", stand_ins: bool = False, limit: int = 1000) -> list[PastRun]:
        """Runs, newest first. Rehearsals, labs, plans and replays only with ``stand_ins``: they are no measurements."""
        clauses = ["1 = 1"] if stand_ins else ["mode IN ('full', 'attach')"]
        if name:
            clauses.append("name = :name")
        sql = f"SELECT * FROM h20_runs WHERE {' AND '.join(clauses)} ORDER BY started DESC, run DESC"
        with self._transaction() as db:
            found = [_entry(row) for row in db.execute(sql, {"name": name} if name else {})]
        return [e for e in found if not engine or engine in e.engines][:limit]

    def trend(self, engine: str, cell: str, metric: str = "output_throughput", *, stand_ins: bool = False) -> list[Point]:
        """One figure over all runs, oldest first. ``metric``: one of output_throughput, mean_tpot_ms, mean_ttft_ms."""
        if metric not in METRICS:
            raise UsageError(f"metric {metric!r}: known are {', '.join(METRICS)}")
        modes = "" if stand_ins else " AND r.mode IN ('full', 'attach')"
        sql = (
            f"SELECT r.run AS run, r.started AS started, r.accepted AS accepted, c.{metric} AS value, r.name AS name, "
            "r.mode AS mode, c.profile AS profile, r.fingerprint AS fingerprint FROM h20_cells c "
            f"JOIN h20_runs r ON r.run = c.run WHERE c.engine = :engine AND c.cell = :cell AND c.{metric} IS NOT NULL{modes} "
            "ORDER BY r.started, r.run"
        )
        with self._transaction() as db:
            rows = db.execute(sql, {"engine": engine, "cell": cell})
        return [
            Point(
                run=r["run"],
                started=r["started"],
                accepted=bool(r["accepted"]),
                value=float(r["value"]),
                name=r["name"],
                mode=r["mode"],
                profile=r["profile"],
                image=_image(r["fingerprint"], engine),
            )
            for r in rows
        ]

    def cells(self, engine: str) -> list[str]:
        """Names of all cells ever measured for an engine."""
        with self._transaction() as db:
            rows = db.execute("SELECT DISTINCT cell FROM h20_cells WHERE engine = :engine", {"engine": engine})
        return sorted((r["cell"] for r in rows), key=_cell_key)

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        opened = _sqlalchemy(self._engine) if self._engine is not None else _sqlite(self.where)
        with _readable_errors(self.where), opened as db:
            for statement in SCHEMA:
                db.execute(statement)
            yield db


def lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of a trend by what must be the same for one line; a name is what tells a line from the others ("" for one)."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(point.line, []).append(point)
    differ = [index for index in range(4) if len({key[index] for key in groups}) > 1]
    return {", ".join(key[index] or "?" for index in differ): found for key, found in groups.items()}


def _image(fingerprint: str, engine: str) -> str:
    """What a run's image is called: its digest where it is known, else its name."""
    try:
        facts = json.loads(fingerprint)["engines"][engine]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(facts.get("image_digest") or facts.get("image") or "") if isinstance(facts, dict) else ""


def add_folder(history: History, base: Path) -> tuple[int, list[str]]:
    """Keep every run below ``base`` (``h20-runs``). Returns how many, and what could not be read."""
    added, problems = 0, []
    for file in sorted(base.glob("*/verdict.json")):
        try:
            history.add(load_run(file.parent))
            added += 1
        except UsageError as error:
            problems.append(str(error))
    return added, problems


# ---------------------------------------------------------------- rows


def _run_row(view: RunView) -> dict[str, Any]:
    h = view.header
    return {
        "run": h.run,
        "started": h.started.isoformat() if h.started else "",
        "name": h.name,
        "engines": ",".join(h.engines),
        "mode": h.mode.value,
        "complete": int(view.complete),
        "accepted": int(view.decision.accepted),
        "green": int(view.decision.green),
        "reason": view.decision.reason,
        "path": str(view.path.resolve()),
        "fingerprint": view.fingerprint.model_dump_json() if view.fingerprint else json.dumps({}),
    }


def _cell_rows(view: RunView) -> Iterator[dict[str, Any]]:
    for cell in merge_repeats(view.cells):
        figures = {metric: cell.figure(metric) for metric in METRICS}
        yield {
            "run": view.header.run,
            "engine": cell.engine,
            "profile": cell.profile,
            "cell": cell.name,
            **figures,
            "status": cell.status.value,
        }


def _insert(table: str, row: Mapping[str, Any]) -> str:
    """Column names are ours, values are parameters."""
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(':' + column for column in row)})"


def _entry(row: Row) -> PastRun:
    return PastRun(
        run=row["run"],
        started=row["started"],
        name=row["name"],
        engines=tuple(filter(None, str(row["engines"]).split(","))),
        mode=row["mode"],
        complete=bool(row["complete"]),
        accepted=bool(row["accepted"]),
        green=bool(row["green"]),
        reason=row["reason"],
        path=row["path"],
    )


def _cell_key(name: str) -> tuple[int, ...]:
    return tuple(int(part.strip("inoutc")) for part in name.split("-"))


# ---------------------------------------------------------------- the two ways to a database


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        return [dict(row) for row in self._connection.execute(sql, dict(parameters or {})).fetchall()]


@contextmanager
def _sqlite(where: str) -> Iterator[Transaction]:
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several runs may end at once: wait for the other one's transaction rather than fail.
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection:
        connection.row_factory = sqlite3.Row
        with connection:
            yield _Sqlite(connection)


class _Alchemy:
    def __init__(self, connection: Any, text: Any) -> None:
        self._connection, self._text = connection, text

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        result = self._connection.execute(self._text(sql), dict(parameters or {}))
        return [dict(row) for row in result.mappings()] if result.returns_rows else []


def _engine(url: str) -> Any:
    try:
        sqlalchemy = import_module("sqlalchemy")
    except ImportError:
        raise UsageError(
            f"history store {_without_password(url)}: a database URL needs SQLAlchemy: pip install 'pytest-h20[store]', "
            "or give a file name for SQLite"
        ) from None
    try:
        return sqlalchemy.create_engine(url)
    except ImportError as error:
        raise UsageError(f"history store {_without_password(url)}: its driver is not installed: pip install {error.name}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UsageError(f"history store {_without_password(url)}: {error}") from None


@contextmanager
def _sqlalchemy(engine: Any) -> Iterator[Transaction]:
    text = import_module("sqlalchemy").text
    with engine.begin() as connection:
        yield _Alchemy(connection, text)


@contextmanager
def _readable_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise UsageError(f"history store {where}: {error}; give another --store") from None
    except Exception as error:
        # SQLAlchemy's errors, known only when it is installed: its own base class tells them from ours.
        if not any(base.__module__.startswith("sqlalchemy") for base in type(error).__mro__):
            raise
        raise UsageError(f"history store {_without_password(where)}: {str(error).splitlines()[0]}") from None


def _without_password(url: str) -> str:
    from pytest_h20.core.redact import redact

    return redact(url)
