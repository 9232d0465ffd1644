"""``python -m pytest_h20 verify RUN``: is this run as it was signed, and by whom?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_h20.lang import say
from pytest_h20.lang.arguments import Parser
from pytest_h20.report.run import load_run
from pytest_h20.report.signature import ATTESTATION, EnvelopeSignature, Signer, attested, fingerprint, signers


def main(argv: Sequence[str]) -> int:
    """Check one run. 0: every file is as it was signed, and somebody of ``--signers`` signed; 1: not; 2: wrong use."""
    parser = Parser(
        prog="python -m pytest_h20 verify",
        description="Say what was changed, missing or added since a run was signed, and who signed. Offline. Status 0 means: authentic. "
        "Whether the cluster was accepted stands in the first line.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder below h20-runs/")
    parser.add_argument(
        "--signers",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="whose signature counts: a public key (OpenSSH or PEM), or a file of them, a line 'NAME KIND KEY' each; can be given again",
    )
    args = parser.parse_args(list(argv))
    known = [signer for file in args.signers for signer in signers(file)]
    run = load_run(args.run).path
    found = attested(run)
    if found is None:
        say(f"not signed: {run} has no {ATTESTATION}; sign it with: python -m pytest_h20 sign {run} --key KEY")
        return 1
    say(f"the result that was signed: {found.result}")
    for problem in found.problems:
        say(f"  {problem}")
    if not found.problems:
        say("  every file is as it was signed")
    for signature in found.signatures:
        say(f"  {_told(signature, known)}")
    who = found.known_to(known)
    if found.intact and who:
        say(f"authentic: signed by {', '.join(s.name for s in who)}")
        return 0
    if found.intact and not known:
        say("not said by whom: anybody can make a key; give --signers FILE with the public keys of those you trust")
    elif found.intact:
        say("not authentic: none of the signatures is by somebody of --signers")
    else:
        say("NOT authentic: do not rely on this record")
    return 1


def _told(signature: EnvelopeSignature, known: Sequence[Signer]) -> str:
    if signature.key is None:
        return f"a signature that cannot be read, by {signature.named or 'nobody named'}"
    print_ = fingerprint(signature.key)
    if not signature.holds:
        return f"signature by {print_}: does NOT hold"
    who = next((s.name for s in known if s.fingerprint == print_), "nobody of --signers" if known else "not known whose key")
    return f"signature by {print_}: holds ({who})"
