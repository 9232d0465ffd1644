"""``python -m pytest_h20 watch RUN``: follow a run while it goes on, or see how one ended.

RUN is its folder, or a folder of runs (the newest one), here or on another machine as ``[user@]host:FOLDER``, which is read over SSH;
nothing is written there. On a terminal it is drawn (with `pip install 'pytest-h20[watch]'`), else lines are printed as they change.
``--serve PORT`` shows it as a page on this machine's loopback instead.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_h20 import lang
from pytest_h20.cli import command_parser
from pytest_h20.core import door
from pytest_h20.core.errors import TransportError, UsageError
from pytest_h20.lang import local
from pytest_h20.report.live.folder import Follow, source_of
from pytest_h20.report.live.lines import LiveLine, lines
from pytest_h20.report.live.progress import Progress, RunState

if TYPE_CHECKING:
    from pytest_h20.nodes import Node

STYLES = {"plain": "", "head": "bold", "good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim"}


def main(argv: Sequence[str]) -> int:
    """0: the run went to its end, or goes on (``--once``). 1: it was killed in the middle. 2: wrong use."""
    parser = command_parser("watch", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a folder of runs; [user@]host:FOLDER over SSH")
    parser.add_argument("--once", action="store_true", help="say how it stands and end")
    parser.add_argument("--plain", action="store_true", help="print lines, also on a terminal")
    parser.add_argument("--every", type=float, metavar="S", help="seconds between two looks (default: 1 on a terminal, else 10)")
    parser.add_argument("--serve", metavar="PORT", help="show it as a page on this machine's loopback; 0: a free port")
    from pytest_h20.cli.reach import add_ssh

    add_ssh(parser)
    args = parser.parse_args(argv)
    lang.use()
    if args.every is not None and not 0.1 <= args.every <= 3600:
        raise UsageError(f"--every={args.every:g}: give seconds from 0.1 to 3600")
    source = source_of(args.run, lambda host: _connected(host, args))
    try:
        follow = Follow(source)
        if args.serve is not None:
            return _serve(follow, args.serve)
        rich = None if args.plain or args.once or not sys.stdout.isatty() else _rich()
        return _drawn(follow, rich, args.every or 1.0) if rich is not None else _printed(follow, args.every or 10.0, args.once)
    finally:
        source.close()


def _connected(host: str, args: argparse.Namespace) -> Node:
    from pytest_h20.cli.reach import split_host, ssh_words
    from pytest_h20.config.inventory import Ssh
    from pytest_h20.nodes.connect import connect
    from pytest_h20.run.nodes import ssh_settings

    user, address, port = split_host(host)
    given = ssh_words(args)
    given |= {name: value for name, value in (("user", user), ("port", port)) if value is not None}
    return connect(host, ssh_settings(address, Ssh(**given)))


def _rich() -> Any:
    """What draws; None where it is not installed."""
    try:
        import rich.console
        import rich.live
        import rich.text
    except ImportError:
        return None
    return rich


def _look(follow: Follow, tell: Any) -> Progress | None:
    """How it stands; None, and why, when the connection is lost for now."""
    try:
        return follow.stand()
    except TransportError as error:
        tell(f"no connection; tried again: {error}")
        return None


def _end(p: Progress) -> int:
    return 1 if p.state is RunState.KILLED else 0


def _printed(follow: Follow, every: float, once: bool) -> int:
    """Lines, as they change: what moves with every sample is left out."""
    stand, shown, state = follow.stand(), set[LiveLine](), None
    while True:
        stamp = "" if once or not shown else f"{time.strftime('%H:%M:%S')} "
        for line in lines(stand):
            if (line.drawn and not once) or line in shown or (line.tone == "head" and stand.state is state):
                continue
            print(f"{stamp}{line.text}", flush=True)
        shown, state = set(lines(stand)), stand.state
        if once or stand.state.over:
            return _end(stand)
        time.sleep(every)
        stand = _look(follow, lambda text: print(text, file=sys.stderr, flush=True)) or stand


def _drawn(follow: Follow, rich: Any, every: float) -> int:
    """One picture, drawn over itself; what stands in the end stays."""
    console = rich.console.Console(file=getattr(sys.stdout, "stream", sys.stdout), highlight=False)

    def picture(p: Progress, note: str = "") -> Any:
        found = [*lines(p, console.width), *([LiveLine(note, "warn")] if note else [])]
        texts = [
            rich.text.Text(
                door.shown(line.text), style=STYLES[line.tone], no_wrap=line.drawn, overflow="ellipsis" if line.drawn else "fold"
            )
            for line in found
        ]
        return rich.console.Group(*texts)

    stand = follow.stand()
    notes: list[str] = []
    with rich.live.Live(picture(stand), console=console, auto_refresh=False, transient=True) as live:
        while not stand.state.over:
            time.sleep(every)
            notes.clear()
            stand = _look(follow, notes.append) or stand
            live.update(picture(stand, notes[-1] if notes else ""), refresh=True)
    console.print(picture(stand))
    return _end(stand)


def _serve(follow: Follow, port: str) -> int:
    from pytest_h20.report.live.serve import listen, port_asked, show, url_of

    listening = listen(port_asked(port, "--serve"), "--serve")
    follow.stand()  # what cannot be read is said here, and not on a page
    print(local(f"{url_of(listening)} (this machine, this user; Ctrl-C ends it)"), flush=True)
    show(listening, follow, threading.Event().wait)
    return 0
