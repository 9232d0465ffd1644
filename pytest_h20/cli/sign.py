"""``python -m pytest_h20 sign RUN --key KEY``: somebody answers for a run."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.core.errors import UsageError
from pytest_h20.lang import say
from pytest_h20.lang.arguments import Parser
from pytest_h20.report.run import load_run
from pytest_h20.report.signature import ACCEPTED_KEYS, fingerprint, private_key, result_of, sign


def main(argv: Sequence[str]) -> int:
    """Sign one run. 0: signed; 2: the run or the key cannot be used."""
    parser = Parser(
        prog="python -m pytest_h20 sign",
        description="Write attestation.dsse.json into a run folder: an in-toto test-result statement over every file of it. A second "
        "person's signature is added to the first. Offline.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder below h20-runs/")
    parser.add_argument("--key", metavar="KEY", type=Path, required=True, help=f"private key: {ACCEPTED_KEYS}")
    args = parser.parse_args(list(argv))
    key = private_key(args.key, lambda: _passphrase(args.key))
    file = sign(args.run, key)
    say(f"signed with {fingerprint(key.public_key())}: {file}")
    say(f"the result that was signed: {result_of(load_run(args.run))}")
    say(f"to check it: python -m pytest_h20 verify {args.run} --signers {args.key}.pub")
    return 0


def _passphrase(path: Path) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(f"{path}: is locked by a passphrase, and there is no terminal to ask for it; sign where there is one")
    return getpass.getpass(f"passphrase of {path}: ").encode()
