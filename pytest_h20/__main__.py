"""``python -m pytest_h20 COMMAND``: the parts that are useful without pytest."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from pytest_h20 import lang
from pytest_h20.core.door import standard_streams
from pytest_h20.core.errors import H20Error, UsageError, instead

COMMANDS: dict[str, tuple[str, str]] = {
    "nccl": ("pytest_h20.cli.nccl", "explain NCCL logs: does this job really run on RDMA?"),
    "kv": ("pytest_h20.cli.kv", "explain KV-transfer logs of a prefill/decode split: RDMA or TCP?"),
    "diagnose": ("pytest_h20.cli.diagnose", "read engine logs: ready, waiting or failed, and why"),
    "load": ("pytest_h20.load.cli", "measure TTFT, TPOT and throughput of any OpenAI-compatible or SGLang server"),
    "discover": ("pytest_h20.cli.discover", "write an inventory from what is found on the hosts"),
    "sudoers": ("pytest_h20.cli.sudoers", "what root must allow a login that is not root, for /etc/sudoers.d"),
    "example": ("pytest_h20.cli.example", "print the inventory that is shipped, to start from"),
    "soak": ("pytest_h20.cli.soak", "judge the bins that a soak left, also one that was killed"),
    "watch": ("pytest_h20.cli.watch", "follow a run while it goes on, here or over SSH"),
    "weights": ("pytest_h20.cli.weights", "check a model folder: complete, uncorrupted"),
    "reap": ("pytest_h20.cli.reap", "remove what a killed run left on the nodes"),
    "compare": ("pytest_h20.cli.compare", "compare two runs"),
    "sign": ("pytest_h20.cli.sign", "sign a run: an in-toto statement over every file of it"),
    "verify": ("pytest_h20.cli.verify", "is a run as it was signed, and by whom?"),
    "export": ("pytest_h20.cli.export", "write a run as OpenMetrics or CTRF"),
    "history": ("pytest_h20.cli.history", "earlier runs and their trend"),
    "pack": ("pytest_h20.cli.pack", "a folder that installs where there is no internet"),
    "schema": ("pytest_h20.cli.schema", "print a JSON Schema: inventory, verdict"),
}

MORE = (
    "Exit status: 0 done, 1 found something wrong, 2 wrong use or a file that cannot be read or written, 130 interrupted.",
    "python -m pytest_h20 COMMAND --help says more. The acceptance itself is a pytest run:",
)


def usage() -> str:
    """What ``--help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"{lang.local('usage: ')}python -m pytest_h20 COMMAND [ARGUMENT ...]", "", lang.local("commands:")]
    lines += [f"  {name:<{width}}  {lang.local(text)}" for name, (_, text) in COMMANDS.items()]
    lines += ["", *map(lang.local, MORE)]
    lines += ["  pytest --engine=sglang --nodes=inventory.yaml --html=report.html --self-contained-html"]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run one command. 0 done, 1 found something wrong, 2 wrong use or a file or disk that fails, 130 interrupted, 141 nobody reads what
    is printed (as the shell tells both of any program: what was not read whole must not pass for a judgement)."""
    name = " ".join(("pytest_h20", *argv[:1])) if argv and argv[0] in COMMANDS else "pytest_h20"
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except H20Error as error:
        print(lang.told(f"{name}: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(lang.told(f"{name}: {where}{error.strerror or error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    lang.use()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from pytest_h20 import __version__

        print(f"pytest-h20 {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise UsageError(f"no command {argv[0]!r}{instead(argv[0], COMMANDS)}")
    module = importlib.import_module(COMMANDS[argv[0]][0])
    # The schema is words of ours, in which a field named "password" is not one.
    with nullcontext() if argv[0] == "schema" else standard_streams():
        status = int(module.main(list(argv[1:])))
        sys.stdout.flush()
        return status


def run() -> None:
    """Console entry point."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout = sys.stdout or os.fdopen(nowhere, "w")  # None where it was closed
    status = main(sys.argv[1:])
    # What could not be written stays in the buffer; the interpreter would try again as it ends, and complain.
    os.dup2(nowhere, 1)
    sys.exit(status)


if __name__ == "__main__":
    run()
