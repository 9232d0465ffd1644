"""The run folder: written as the run goes, readable after a kill, read back for replay, comparison and every report.

Layout of ``h20-runs/<UTC time>-<engine>-<name>/``::

    verdict.json        the document of :class:`~pytest_h20.report.model.RunDocument`; "complete": false until the end, then also
                        with the SHA-256 of every record below (the evidence by its index) and of itself (``seal``)
    fingerprint.json    what may explain a different figure
    inputs/             what a replay needs to judge the evidence again: header, inventory, facts of the nodes ... as JSON, redacted
    verdicts.jsonl      one line per check as it happened   (verdicts.<worker>.jsonl from xdist workers)
    events.jsonl        states, cells, rails, facts, commands, log tails ...   (events.<worker>.jsonl)
    evidence/           logs and tool outputs; index.json lists size and SHA-256
    summary.csv         the write-up's columns
    .live/              what goes on at this moment (``report/live``); gone when the run is finished

Each line is written with one ``write`` to a file opened for appending and flushed, so a killed process leaves whole lines (at
most the last one is cut, and is then named as damage). Text is redacted on its way in; nothing is redacted later.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from pytest_h20 import __version__
from pytest_h20.core.errors import H20Error, StorageError, UsageError
from pytest_h20.core.redact import DEFAULT, Redactor
from pytest_h20.core.verdict import Decision, GateName, Status, Verdict, decide
from pytest_h20.core.whole import write_whole
from pytest_h20.report import untrusted
from pytest_h20.report.live import now
from pytest_h20.report.model import (
    RECORD_TYPES,
    SCHEMA_VERSION,
    CellLoad,
    CellRow,
    CheckRow,
    Command,
    DrillRow,
    EvidenceFile,
    Fingerprint,
    Header,
    KernelLine,
    LogTail,
    Mode,
    NodeColumn,
    NotMeasured,
    Other,
    RailPair,
    RailTraffic,
    RunDocument,
    RunView,
    SetupError,
    SoakRecord,
    StateChange,
    Timed,
    Warning_,
)

_Model = TypeVar("_Model", bound=BaseModel)

VERDICT_FILE = "verdict.json"
FINGERPRINT_FILE = "fingerprint.json"
SUMMARY_FILE = "summary.csv"
EVIDENCE_DIR = "evidence"
INDEX_FILE = "evidence/index.json"
INPUTS_DIR = "inputs"
HEADER_FILE = "inputs/header.json"
ROOM_MIB = 64
"""Less room than this, and a run is refused before it starts: a disk that is full after the engine was loaded costs the whole run."""


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _safe(name: str) -> str:
    """A name that is one path component on every file system."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "run"


class RunFolder:
    """One run's folder. The controller creates it; xdist workers ``open`` it with their own name and only append.

    Whatever is given to any method is redacted before it is written. ``redactor`` replaces the built-in one, for example to add
    an inventory's own patterns and the secrets of this run.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        worker: str = "",
        redactor: Redactor | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._clock = clock or _now
        self.path = path
        self.header = header
        self.worker = worker
        self._redactor = redactor or DEFAULT
        suffix = f".{_safe(worker)}" if worker else ""
        self._sealed = False
        self._verdicts = path / f"verdicts{suffix}.jsonl"
        self._events = path / f"events{suffix}.jsonl"

    @classmethod
    def create(
        cls,
        base: Path,
        engine: str | Sequence[str],
        name: str,
        mode: Mode,
        *,
        redactor: Redactor | None = None,
        clock: Callable[[], datetime] | None = None,
        **fields: Any,
    ) -> RunFolder:
        """Make ``base/<UTC time>-<engine>-<name>/`` and write a ``verdict.json`` that says "incomplete".

        ``fields`` are further fields of :class:`Header`; ``clock`` gives the time in UTC (default: this machine's).
        Raises ``UsageError`` when the folder cannot be made.
        """
        engines = (engine,) if isinstance(engine, str) else tuple(engine)
        started = (clock or _now)()
        stem = f"{started:%Y%m%dT%H%M%SZ}-{_safe('+'.join(engines))}-{_safe(name)}"
        try:
            path = _make_unique(base, stem)
            (path / EVIDENCE_DIR).mkdir(mode=0o700)
            (path / INPUTS_DIR).mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(f"{base}: no run folder can be made there: {error}; give another --h20-run-dir") from None
        room = shutil.disk_usage(path).free // 2**20
        if room < ROOM_MIB:
            shutil.rmtree(path)
            raise UsageError(
                f"{base}: {room} MiB are free there, and a run's record needs {ROOM_MIB}; make room, or give another --h20-run-dir"
            )
        header = Header(run=path.name, name=name, engines=engines, mode=mode, started=started, plugin_version=__version__).model_copy(
            update=fields
        )
        folder = cls(path, Header.model_validate(header.model_dump()), redactor=redactor, clock=clock)
        folder._write_document(complete=False)
        return folder

    @classmethod
    def open(cls, path: Path, worker: str = "", *, redactor: Redactor | None = None) -> RunFolder:
        """Open a folder that exists, to append to it. Raises ``UsageError`` when it is no run folder."""
        return cls(path, _read_document(path)[0].header, worker, redactor)

    # ------------------------------------------------------------ as the run goes

    def evidence(self, name: str, data: bytes | str) -> str:
        """Keep a raw output below ``evidence/`` and return its path relative to the run folder.

        ``name`` may have folders (``node01/ibstat.txt``). A name that is taken gets ``-2``, ``-3`` ...
        """
        parts = [_safe(part) for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        if not parts:
            raise H20Error(f"evidence name {name!r}: give a file name, for example 'node01/ibstat.txt'")
        content = self._redactor.bytes(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        folder = self.path.joinpath(EVIDENCE_DIR, *parts[:-1])
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for target in _candidates(folder, parts[-1]):
                try:
                    with open(target, "xb", opener=_private) as file:
                        file.write(content)
                except FileExistsError:
                    continue
                return target.relative_to(self.path).as_posix()
        raise AssertionError("unreachable: candidates never end")  # pragma: no cover

    def keep(self, name: str, data: object) -> None:
        """Write ``inputs/NAME.json``: what a replay needs beside the evidence. Written again, it replaces what was there."""
        self._write_json(f"{INPUTS_DIR}/{_safe(name)}.json", data)

    def tell(self, what: now.BringUpNow | now.CellNow | now.MachinesNow) -> None:
        """What goes on at this moment, over what was told of it before. A disk that cannot take it ends nothing: the records say so."""
        with contextlib.suppress(OSError):
            self._write_text(now.file_of(what.kind, what.engine), json.dumps(self._clean(what.model_dump(mode="json")), ensure_ascii=False))

    def over(self, kind: str, engine: str) -> None:
        """It does not go on any more."""
        with contextlib.suppress(OSError):
            (self.path / now.file_of(kind, engine)).unlink(missing_ok=True)

    def now(self) -> datetime:
        """The time that records are stamped with."""
        return self._clock()

    def record(self, verdict: Verdict, test_id: str = "", duration_s: float | None = None) -> None:
        """Append one verdict."""
        line = {"test_id": test_id, "duration_s": duration_s, "verdict": verdict.model_dump(mode="json")}
        self._append(self._verdicts, line)

    def event(self, kind: str, **data: JsonValue) -> None:
        """Append one event. A known ``kind`` (state, cell, rail, facts, command, log, setup_error, warning) is checked."""
        known = RECORD_TYPES.get(kind)
        if known is not None:
            self.add(known.model_validate({"kind": kind, **data}))
        else:
            self._append(self._events, {"kind": kind, **data})

    def add(self, record: BaseModel) -> None:
        """Append a typed record (:class:`CellRow`, :class:`RailTraffic`, :class:`StateChange` ...)."""
        self._append(self._events, record.model_dump(mode="json"))

    def describe(self, **fields: Any) -> None:
        """Add to the header what is known only now (driver, images ...). Controller only."""
        self.header = Header.model_validate({**self.header.model_dump(), **fields})
        self._write_document(complete=False)

    def fingerprint(self, fingerprint: Fingerprint) -> None:
        """Write ``fingerprint.json``. Controller only; may be written again when more is known."""
        self._write_json(FINGERPRINT_FILE, fingerprint.model_dump(mode="json"))

    # ------------------------------------------------------------ the end

    def view(self) -> RunView:
        """The run as it stands, read back from the folder."""
        return load_run(self.path)

    def finish(self, decision: Decision | None = None, *, warnings: Iterable[str] = ()) -> RunView:
        """Merge what controller and workers wrote, decide, and write the final documents. Controller only.

        Without ``decision`` it is made from the recorded verdicts and the header's required gates. ``accepted`` stays false
        when the mode, a stand-in or another obstacle of the header forbids it, whatever the decision says; a set-up that broke
        and a record that cannot be read back are never green.
        """
        for text in warnings:
            self.add(Warning_(text=text))
        self.header = self.header.model_copy(update={"ended": self._clock()})
        view = load_run(self.path)
        verdicts = view.verdicts
        decision = decision or decide(verdicts, self.header.required, acceptance=not self.header.obstacles)
        spoiled = [f"{words}: {title}" for words, title in dict.fromkeys((e.words, e.title) for e in view.setup_errors)]
        spoiled += [f"record damaged: {where}" for where in view.damage]
        if spoiled and decision.green:
            decision = decision.model_copy(update={"accepted": False, "green": False, "reason": "; ".join(spoiled)})
        if self.header.obstacles:
            decision = decision.model_copy(update={"accepted": False})
        if not (self.path / FINGERPRINT_FILE).exists():
            self.fingerprint(Fingerprint(plugin_version=__version__))
        self._write_text(SUMMARY_FILE, _summary(view))
        self._write_json(INDEX_FILE, [file.model_dump() for file in index_evidence(self.path)])
        self._write_json(HEADER_FILE, self.header.model_dump(mode="json"))
        shutil.rmtree(self.path / now.FOLDER, ignore_errors=True)
        self._sealed = True
        self._seal(document(view.model_copy(update={"header": self.header, "decision": decision, "complete": True})))
        return load_run(self.path)

    # ------------------------------------------------------------ writing

    def _seal(self, doc: RunDocument) -> None:
        data = self._clean(doc.model_copy(update={"records": hash_records(self.path)}).model_dump(mode="json"))
        self._write_text(VERDICT_FILE, _json_text({**data, "seal": seal_of(data)}))

    def _write_document(self, complete: bool) -> None:
        h = self.header
        doc = RunDocument(
            complete=complete,
            mode=h.mode,
            started=h.started,
            time_scale=h.time_scale,
            stood_in=h.stood_in,
            header=h,
        )
        self._write_json(VERDICT_FILE, doc.model_dump(mode="json"))
        self._write_json(HEADER_FILE, h.model_dump(mode="json"))

    def _append(self, path: Path, data: Mapping[str, Any]) -> None:
        stamped = {"time": self._clock().isoformat(), **data}
        line = json.dumps(self._clean(stamped), ensure_ascii=False, allow_nan=False) + "\n"
        # One unbuffered write to an O_APPEND file: whole lines even when two threads or a kill come in between.
        with _told(path), open(path, "ab", buffering=0, opener=_private) as file:
            whole = line.encode("utf-8", "replace")
            if file.write(whole) != len(whole):
                raise OSError(errno.ENOSPC, "only a part of a line could be written")
        if self._sealed:  # said by ourselves after the decision (a history store that cannot be reached): no damage
            doc, problem = _read_document(self.path)
            if not problem:  # sealed again as it is, what was changed meanwhile would look whole
                self._seal(doc)

    def _write_json(self, name: str, data: object) -> None:
        self._write_text(name, _json_text(self._clean(data)))

    def _write_text(self, name: str, text: str) -> None:
        target = self.path / name
        with _told(target):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            write_whole(target, text)

    def clean(self, text: str) -> str:
        """A text as it may leave this process."""
        return str(self._clean(text))

    def _clean(self, value: object) -> Any:
        return _finite(self._redactor.data(value))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """A file that cannot be written is one clear error: which, why, and how much room its disk has. Nothing of it can be green."""
    try:
        yield
    except OSError as error:
        try:
            room = f"; {shutil.disk_usage(path if path.is_dir() else path.parent).free // 2**20} MiB are free there"
        except OSError:
            room = ""
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}{room}; "
            "make room, or give --h20-run-dir on another disk, and run again: this run's record is not whole"
        ) from None


def _private(path: str, flags: int) -> int:
    """Opens for this user alone: evidence holds what nodes show to root."""
    return os.open(path, flags, 0o600)


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON lacks, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    """``name``, ``name-2``, ``name-3`` ... with the suffix kept."""
    path = folder / name
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _make_unique(base: Path, stem: str) -> Path:
    base.mkdir(parents=True, exist_ok=True, mode=0o755)
    untrusted.refuse_foreign(base)
    for path in _candidates(base, stem):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable: candidates never end")  # pragma: no cover


def index_evidence(path: Path) -> list[EvidenceFile]:
    """Every file below ``evidence/`` with size and SHA-256, in order of path."""
    root = path / EVIDENCE_DIR
    files = sorted(f for f in root.rglob("*") if not f.is_dir() and f != path / INDEX_FILE)
    return [
        EvidenceFile(path=f.relative_to(path).as_posix(), size=f.lstat().st_size, sha256=untrusted.sha256(f))
        for f in files
        if not f.name.startswith(".index.json")
    ]


def hash_records(path: Path) -> dict[str, str]:
    """SHA-256 of what a finished run's folder consists of beside ``evidence/``: lines, fingerprint, cells, the index."""
    files = [*path.glob("verdicts*.jsonl"), *path.glob("events*.jsonl"), path / FINGERPRINT_FILE, path / INDEX_FILE]
    files += [*(path / "load").rglob("*"), *(path / INPUTS_DIR).rglob("*")]
    return {f.relative_to(path).as_posix(): untrusted.sha256(f) for f in sorted(files) if f.is_symlink() or (f.exists() and not f.is_dir())}


def seal_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of ``verdict.json`` without its seal, in hex: keys sorted, no blanks, so that layout does not matter."""
    text = json.dumps({k: v for k, v in data.items() if k != "seal"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _json_text(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _record_problems(path: Path, doc: RunDocument, checks: Sequence[CheckRow]) -> Iterator[str]:
    """What does not agree with the hashes in ``verdict.json``, and where that itself does not agree with its records."""
    if not doc.records:
        yield f"{VERDICT_FILE}: has no hashes of the records beside it: whether they were changed cannot be told"
    found = hash_records(path) if doc.records else {}
    for name in sorted({*doc.records, *found}):
        if name not in found:
            yield f"{name}: missing"
        elif name not in doc.records:
            yield f"{name}: not there when the run ended"
        elif found[name] != doc.records[name]:
            yield f"{name}: changed since the run"
    if sorted(doc.checks, key=repr) != sorted(checks, key=repr):  # a later version may put them into another order
        yield f"{VERDICT_FILE}: its checks are not those of verdicts.jsonl"


def verify_evidence(path: Path) -> list[str]:
    """What does not agree with ``evidence/index.json``: changed, missing, added files. Empty: all is as it was written."""
    try:
        recorded = {f["path"]: f["sha256"] for f in json.loads(untrusted.text(path / INDEX_FILE))}
    except FileNotFoundError:
        return [f"{INDEX_FILE} is missing: the run did not finish, or the folder was changed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{INDEX_FILE} cannot be read: {error}"]
    found = {f.path: f.sha256 for f in index_evidence(path)}
    problems = [f"{name}: changed since the run" for name in sorted(recorded.keys() & found) if recorded[name] != found[name]]
    problems += [f"{name}: missing" for name in sorted(recorded.keys() - found)]
    problems += [f"{name}: not there when the run ended" for name in sorted(found.keys() - recorded)]
    return problems


# ---------------------------------------------------------------- reading back


def load_run(path: Path, *, hashed: bool = True) -> RunView:
    """Read a run folder (or its ``verdict.json``). Works on a killed run's folder too: it then is not complete.

    ``hashed``: its files are held against the hashes of ``verdict.json``; not where only some of them are at hand.

    Raises:
        UsageError: there is no run, or its ``verdict.json`` is not one this version can read.
    """
    path = path.parent if path.name == VERDICT_FILE else path
    damage: list[str] = []
    lost = ""
    try:
        doc, problem = _read_document(path)
        damage += [problem] if problem else []
    except _Unreadable as error:
        doc, lost = _salvaged(path, error), f"{VERDICT_FILE} cannot be read: what was decided is not known"
        damage.append(f"{str(error).replace(f'{path}/', '')}; what stands in the files beside it is shown")
    checks = tuple(_checks(path, damage))
    records: defaultdict[type[BaseModel], list[Any]] = defaultdict(list)
    for time, record in _events(path, damage):
        if isinstance(record, StateChange):
            records[Timed].append(Timed(time=time, change=record))
        else:
            records[type(record)].append(record)
    if doc.complete and hashed:
        damage += _record_problems(path, doc, checks)
    header = doc.header
    decision = Decision(accepted=doc.accepted, green=doc.green, reason=doc.reason, gates=doc.gates)
    if not doc.complete:
        seen = decide([c.bare() for c in checks], header.required, acceptance=False)
        decision = Decision(accepted=False, green=False, reason=lost or "the run did not finish", gates=seen.gates)
    elif damage and (decision.accepted or decision.green):
        told = f"record damaged: {damage[0]}" + (f" (and {len(damage) - 1} more)" if len(damage) > 1 else "")
        decision = Decision(accepted=False, green=False, reason=told, gates=decision.gates)
    return RunView(
        path=path,
        header=header,
        complete=doc.complete,
        decision=decision,
        checks=checks,
        not_measured=tuple(_not_measured(checks, decision)),
        timeline=tuple(records[Timed]),
        cells=tuple(sorted(_latest(records[CellRow]), key=_cell_order)),
        rails=tuple(sorted(records[RailTraffic], key=lambda r: (r.engine, _natural(r.hca), r.node))),
        pairs=tuple({(p.engine, p.node, p.hca): p for p in records[RailPair]}.values()),
        soaks=tuple({s.engine: s for s in records[SoakRecord]}.values()),
        loads=tuple({(c.engine, c.cell, c.repeat): c for c in records[CellLoad]}.values()),
        kernel=tuple(records[KernelLine]),
        drills=tuple(records[DrillRow]),
        facts=tuple(_merge_facts(records[NodeColumn])),
        commands=tuple(records[Command]),
        logs=tuple(records[LogTail]),
        setup_errors=tuple(records[SetupError]),
        warnings=tuple(dict.fromkeys(w.text for w in records[Warning_])),
        damage=tuple(damage),
        others=tuple(records[Other]),
        fingerprint=_read_fingerprint(path),
    )


def document(view: RunView) -> RunDocument:
    """``verdict.json`` of a view."""
    h, d = view.header, view.decision
    return RunDocument(
        complete=view.complete,
        accepted=d.accepted and view.complete and not h.obstacles,
        green=d.green and view.complete,
        reason=d.reason,
        mode=h.mode,
        started=h.started,
        ended=h.ended,
        time_scale=h.time_scale,
        stood_in=h.stood_in,
        warnings=(*view.warnings, *view.damage),
        header=h,
        gates=d.gates,
        checks=view.checks,
        not_measured=view.not_measured,
        cells=view.cells,
        rails=view.rails,
        pairs=view.pairs,
        setup_errors=view.setup_errors,
    )


class _Unreadable(UsageError):
    """A ``verdict.json`` that cannot be read, in a folder that may hold more."""


def _read_document(path: Path) -> tuple[RunDocument, str]:
    """``verdict.json``, and what is wrong with its seal. Raises ``_Unreadable`` when it is damaged, ``UsageError`` when it is of
    another version or there is no folder."""
    file = path / VERDICT_FILE
    try:
        data = json.loads(untrusted.text(file))
    except FileNotFoundError:
        raise _Unreadable(f"{path}: no run here ({VERDICT_FILE} is missing); give a folder below h20-runs/") from None
    except NotADirectoryError:
        raise UsageError(f"{path}: not a run folder; give a folder below h20-runs/") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _Unreadable(f"{file}: cannot be read as JSON: {error}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        refused = UsageError if isinstance(version, int) else _Unreadable
        raise refused(f"{file}: schema_version is {version!r}; this version of pytest-h20 ({__version__}) reads {SCHEMA_VERSION}")
    try:
        doc = RunDocument.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _Unreadable(f"{file}: {where}: {first['msg']}; the file was changed or is damaged") from None
    if not doc.complete:
        return doc, ""
    if not doc.seal:
        return doc, f"{VERDICT_FILE}: has no seal: whether its header or its decision was changed cannot be told"
    return doc, "" if doc.seal == seal_of(data) else f"{VERDICT_FILE}: changed since the run: its seal is not that of what it says"


def _salvaged(path: Path, error: _Unreadable) -> RunDocument:
    """What is known of a run whose ``verdict.json`` cannot be read: its header as it was kept beside it, else the folder's name.

    Raises the error again when there is no record of a run either.
    """
    if not any(True for name in ("verdicts*.jsonl", "events*.jsonl", HEADER_FILE) for _ in path.glob(name)):
        raise UsageError(str(error)) from None
    try:
        header = Header.model_validate_json(untrusted.text(path / HEADER_FILE))
    except (OSError, ValueError):
        named = re.fullmatch(r"(\d{8}T\d{6}Z)-(.+)", path.name)
        started = datetime.strptime(named[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc) if named else None
        header = Header(run=path.name, started=started, cannot_accept=("what kind of run it was is not known",))
    return RunDocument(mode=header.mode, started=header.started, header=header)


def _read_fingerprint(path: Path) -> Fingerprint | None:
    try:
        return Fingerprint.model_validate_json(untrusted.text(path / FINGERPRINT_FILE))
    except (OSError, ValueError):
        return None


def _lines(path: Path, pattern: str, damage: list[str]) -> Iterator[dict[str, Any]]:
    for file in sorted(path.glob(pattern)):
        try:
            lines = untrusted.text(file, errors="replace").split("\n")
        except OSError as error:
            damage.append(f"{file.name}: {error.strerror or error}")
            continue
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                data = None
            if isinstance(data, dict):
                yield data
            else:
                damage.append(f"{file.name}:{number}: a line that is not JSON was left out")


def _checks(path: Path, damage: list[str]) -> list[CheckRow]:
    """All checks by gate, then in the order in which their kinds were first made (the suite makes what explains the rest first), then by
    subject and test, whoever ran them."""
    gates = list(GateName)
    found: dict[str, CheckRow] = {}
    first: dict[str, str] = {}
    for data in _lines(path, "verdicts*.jsonl", damage):
        try:
            verdict = Verdict.model_validate(data["verdict"])
            gate = verdict.gate
            check = CheckRow(**dict(verdict), test_id=data.get("test_id", ""), duration_s=data.get("duration_s"))
        except (KeyError, TypeError, ValueError) as error:
            damage.append(f"verdicts: a record was left out: {_first_line(error)}")
            continue
        # The same verdict of the same test may come from a worker's file and from the controller's.
        key = json.dumps([gates.index(gate), check.check, check.subject, check.test_id, verdict.model_dump(mode="json")])
        found.setdefault(key, check)
        when = str(data.get("time", ""))
        first[check.check] = min(when, first.get(check.check, when))
    return sorted(found.values(), key=lambda c: (gates.index(c.gate), first[c.check], c.check, _natural(c.subject), c.test_id))


def _events(path: Path, damage: list[str]) -> list[tuple[datetime, BaseModel]]:
    found = []
    for data in _lines(path, "events*.jsonl", damage):
        try:
            time = datetime.fromisoformat(data.pop("time"))
            if time.tzinfo is None:
                raise ValueError(f"time {time.isoformat()} without a zone")
            kind = RECORD_TYPES.get(data["kind"], Other)
            found.append((time, kind.model_validate(data)))
        except (KeyError, TypeError, ValueError) as error:
            damage.append(f"events: a record was left out: {_first_line(error)}")
    return sorted(found, key=lambda item: item[0])


def _latest(cells: Sequence[CellRow]) -> list[CellRow]:
    """A cell that was measured twice counts with its last figures."""
    return list({(c.engine, c.profile, c.name, c.repeat): c for c in cells}.values())


def _cell_order(cell: CellRow) -> tuple[str, str, int, int, int, int]:
    return cell.engine, cell.profile, cell.input_len, cell.output_len, cell.concurrency, cell.repeat


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``mlx5_2`` before ``mlx5_10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _merge_facts(facts: Sequence[NodeColumn]) -> list[NodeColumn]:
    merged: dict[str, dict[str, str]] = {}
    for item in facts:
        merged.setdefault(item.node, {}).update(item.facts)
    return [NodeColumn(node=node, facts=words) for node, words in sorted(merged.items())]


def _not_measured(checks: Sequence[CheckRow], decision: Decision) -> Iterator[NotMeasured]:
    for check in checks:
        if check.status in (Status.UNKNOWN, Status.SKIP) and not check.recorded:
            yield NotMeasured(what=check.check, subject=check.subject, reason=check.reason or check.title)
    seen = {check.gate for check in checks}
    for gate in decision.gates:
        if gate.name not in seen:
            yield NotMeasured(what=gate.name.value, reason=gate.reason or "no check ran")


def _summary(view: RunView) -> str:
    from pytest_h20.report.handoff import summary_csv

    return summary_csv(view)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
