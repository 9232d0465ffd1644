"""``python -m pytest_h20 diagnose LOG… [--json]``: what an engine's log says about its start."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from pytest_h20.cli.logs import in_runs, opened
from pytest_h20.core.errors import UsageError
from pytest_h20.diagnosis.judge import Diagnosis, diagnose, primary
from pytest_h20.lang import local, say, told
from pytest_h20.lang.arguments import Parser


def _read(name: str) -> str:
    """The text of one log; ``-`` is standard input. Bytes that are no UTF-8 do not stop it."""
    with opened(name) as log:  # carriage returns of progress bars must survive
        return log.read().decode("utf-8", errors="replace")


def _json(name: str, diagnosis: Diagnosis) -> str:
    stage = diagnosis.stage
    return json.dumps(
        {
            "file": name,
            "outcome": diagnosis.outcome,
            "cause": diagnosis.cause,
            "decisive_line": diagnosis.decisive_line,
            "explanation": diagnosis.explanation or None,
            "fix": diagnosis.fix or None,
            "source": diagnosis.source or None,
            "engine": diagnosis.engine,
            "version": str(diagnosis.version) if diagnosis.version else None,
            "stage": stage.name if stage else None,
            "also": list(diagnosis.also),
        },
        ensure_ascii=False,
    )


def _text(name: str, diagnosis: Diagnosis) -> str:
    about = " ".join(str(part) for part in (diagnosis.engine, diagnosis.version) if part)
    lines = [f"{name}: {_sentence(diagnosis)}" + (f"  ({about})" if about else "")]
    line = diagnosis.decisive_line.strip()[:300]
    if line and "\ufffd" in line:
        lines.append("    " + local("(its last line is no text: is this a log?)"))
    elif line:
        lines.append(f"    {line}")
    if diagnosis.also:
        lines.append("    " + local(f"also seen: {', '.join(diagnosis.also)}"))
    return "\n".join(lines)


def _sentence(diagnosis: Diagnosis) -> str:
    """``Diagnosis.sentence`` in the reader's language; what it is made of is translated part by part."""
    if diagnosis.outcome != "failed" or diagnosis.cause is None:
        return local(diagnosis.sentence())
    why, fix = local(diagnosis.explanation), local(diagnosis.fix)
    return f"{local('failed: ')}{why} ({diagnosis.cause}) — {fix} [{diagnosis.source}]"


def main(argv: Sequence[str]) -> int:
    """Judge each log. Exit status: 0; 1 when a start failed or no log tells how one went (not with ``--json``: there the objects say it,
    and the status says that every log could be read); 2 when a log cannot be read (the others are judged all the same)."""
    parser = Parser(
        prog="python -m pytest_h20 diagnose",
        description="Judge engine logs (vLLM, SGLang): ready, waiting, failed or undetermined, and why.",
        epilog="Exit status 0: a start is ready or goes on, none failed; with --json: every log was read. 1: a start failed, or no "
        "log tells how one went. 2: wrong use.",
    )
    parser.add_argument("log", nargs="+", help="a log file (several of one launch), the folder of a run, or - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object per file")
    args = parser.parse_args(argv)
    judged: dict[str, Diagnosis] = {}
    unread = False
    for name in in_runs(args.log, "evidence/nodes/*/rank*.log", "evidence/nodes/*/ray*.log", "evidence/logs/*.log"):
        try:
            judged[name] = diagnose(_read(name))
        except UsageError as error:
            print(told(str(error)), file=sys.stderr)
            unread = True
            continue
        if args.json:
            print(_json(name, judged[name]))
        else:
            print(_text(name, judged[name]))
    worst = primary(judged)
    if worst is not None and len(judged) > 1 and not args.json:
        say(f"primary cause of all: {worst[1].cause or 'unknown'} in {worst[0]}")
    if unread:
        return 2
    untold = all(diagnosis.outcome == "undetermined" for diagnosis in judged.values())
    return 1 if (worst is not None or untold) and not args.json else 0
