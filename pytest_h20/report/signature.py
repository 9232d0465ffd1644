"""A run that somebody answers for: an in-toto statement over every file of its folder, signed.

``attestation.dsse.json`` is a DSSE envelope (github.com/secure-systems-lab/dsse, envelope.md and protocol.md) around an in-toto
statement (github.com/in-toto/attestation) with the predicate *test-result* v0.1: the result, the checks by status, inventory, limits and
images by digest. Its subjects are the files of the run folder. Nothing in it depends on the time or on who signs, so a second person
signs the very same bytes. All of it works offline; the keys are those people have: SSH keys, or PEM, Ed25519 or ECDSA.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.report import untrusted
from pytest_h20.report.model import RunView
from pytest_h20.report.run import load_run

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

ATTESTATION = "attestation.dsse.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
SSH_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
ACCEPTED_KEYS = "Ed25519 or ECDSA (P-256, P-384, P-521), as OpenSSH or PEM file"


@dataclass(frozen=True)
class Signer:
    """A public key and whose it is. ``name``: as the file of keys says it, else the key's comment or the file's name."""

    name: str
    key: PublicKey

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it: ``SHA256:`` and base64 without padding."""
        return fingerprint(self.key)


@dataclass(frozen=True)
class EnvelopeSignature:
    """One signature of an envelope. ``key``: the public key that it says it was made with; ``holds``: over these bytes, by that key."""

    key: PublicKey | None
    named: str
    holds: bool


@dataclass(frozen=True)
class Attested:
    """What an attestation says of a run folder as it is now.

    ``result``: PASSED, WARNED or FAILED, as it was signed. ``problems``: files changed, missing or added since, a result that is not
    the run's. ``signatures``: none of them is by somebody known, before ``known_to`` says so.
    """

    result: str
    signatures: tuple[EnvelopeSignature, ...]
    problems: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Every file is as it was signed, and every signature holds."""
        return bool(self.signatures) and not self.problems and all(s.holds for s in self.signatures)

    def known_to(self, signers: Sequence[Signer]) -> tuple[Signer, ...]:
        """Who of these people signed: their signature holds."""
        holding = {fingerprint(s.key) for s in self.signatures if s.holds and s.key is not None}
        return tuple({s.fingerprint: s for s in signers if s.fingerprint in holding}.values())


# ---------------------------------------------------------------- signing


def sign(path: Path, key: PrivateKey) -> Path:
    """Write ``attestation.dsse.json`` into a run folder, or add a signature to the one that is there.

    Raises ``UsageError``: no run, a run that did not end or whose records are damaged, an attestation over other files.
    """
    payload = _canonical(statement(_whole(path)))
    file = path / ATTESTATION
    signatures: list[dict[str, str]] = []
    if file.exists() or file.is_symlink():
        envelope = _envelope(file)
        if _payload(envelope, file) != payload:
            raise UsageError(
                f"{file}: was signed over other files than are there now; see what changed with 'python -m pytest_h20 verify {path}', "
                f"and remove the file to sign what is there now"
            )
        mine = fingerprint(key.public_key())
        signatures = [s for s in envelope["signatures"] if s.get("keyid") != mine]
    signatures.append(
        {
            "keyid": fingerprint(key.public_key()),
            "sig": base64.b64encode(_signed(key, pae(payload))).decode(),
            "publicKey": _openssh(key.public_key()).decode(),
        }
    )
    envelope = {"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(payload).decode(), "signatures": signatures}
    new = path / f".{ATTESTATION}.new"
    try:
        new.unlink(missing_ok=True)
        with new.open("x", encoding="utf-8") as out:
            out.write(json.dumps(envelope, indent=2) + "\n")
        new.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror or error}; a run is signed by who may write its folder") from None
    return file


def _whole(path: Path) -> RunView:
    view = load_run(path)
    if not view.complete:
        raise UsageError(f"{path}: the run did not finish, there is no decision to sign; sign a run whose verdict.json says complete: true")
    if view.damage:
        raise UsageError(f"{path}: its records are damaged, so nobody should answer for it: {'; '.join(view.damage[:3])}")
    return view


def statement(view: RunView) -> dict[str, Any]:
    """The in-toto statement of a run: deterministic, so that everybody signs the same bytes."""
    print_, checks = view.fingerprint, [c for c in view.checks if not c.recorded]
    configuration = []
    if print_ is not None:
        for name, digest in (("inventory", print_.inventory_sha256), ("limits", print_.limits_sha256)):
            configuration += [{"name": name, "digest": {"sha256": digest}}] if digest else []
        for engine, facts in sorted(print_.engines.items()):
            image, digest = facts.get("image", ""), facts.get("image_digest", "").rpartition("sha256:")[2]
            if image or digest:
                configuration.append({"name": image or engine, **({"digest": {"sha256": digest}} if digest else {})})
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in _files(view.path).items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": result_of(view),
            "configuration": configuration,
            "passedTests": _named(checks, Status.PASS),
            "warnedTests": _named(checks, Status.WARN),
            "failedTests": sorted({*_named(checks, Status.FAIL), *_named(checks, Status.UNKNOWN)}),
        },
    }


def result_of(view: RunView) -> str:
    """PASSED: accepted. WARNED: accepted under conditions of the inventory. FAILED: everything else, a rehearsal too."""
    if not view.decision.accepted or view.header.obstacles:
        return "FAILED"
    return "WARNED" if view.header.conditions else "PASSED"


def _named(checks: Sequence[Any], status: Status) -> list[str]:
    return sorted({f"{c.check} {c.subject}".strip() for c in checks if c.status is status})


def _files(path: Path) -> dict[str, str]:
    """SHA-256 of everything in the folder that is no folder, by path; of what is no regular file, the reason in words."""
    own = {ATTESTATION, f".{ATTESTATION}.new"}
    found = sorted(f for f in path.rglob("*") if f.is_symlink() or not f.is_dir())
    return {name: untrusted.sha256(f) for f in found if (name := f.relative_to(path).as_posix()) not in own}


# ---------------------------------------------------------------- checking


def attested(path: Path) -> Attested | None:
    """What the attestation of a run folder is worth. ``None``: there is none.

    Raises ``UsageError`` for a file that is no envelope of ours.
    """
    file = path / ATTESTATION
    if not file.exists() and not file.is_symlink():
        return None
    envelope = _envelope(file)
    payload = _payload(envelope, file)
    try:
        said = json.loads(payload)
        signed = {s["name"]: s["digest"]["sha256"] for s in said["subject"]}
        result = str(said["predicate"]["result"])
        kind = said["_type"], said["predicateType"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file}: what was signed is no in-toto statement of a test result: {type(error).__name__}: {error}") from None
    if kind != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise UsageError(f"{file}: a statement of kind {kind[1]!r}; expected {PREDICATE_TYPE}")
    message = pae(payload)
    return Attested(result, tuple(_checked(s, message) for s in envelope["signatures"]), tuple(_differences(path, signed, result)))


def _differences(path: Path, signed: Mapping[str, str], result: str) -> Iterator[str]:
    found = _files(path)
    for name in sorted({*signed, *found}):
        if name not in found:
            yield f"{name}: missing since it was signed"
        elif name not in signed:
            yield f"{name}: added since it was signed"
        elif found[name] != signed[name]:
            yield f"{name}: changed since it was signed"
    if found != signed:
        return
    now = result_of(load_run(path))
    if now != result:
        yield f"the statement says {result}, and verdict.json amounts to {now}"


def _checked(entry: Mapping[str, Any], message: bytes) -> EnvelopeSignature:
    named = str(entry.get("keyid", ""))
    try:
        key = public_key(str(entry.get("publicKey", "")).encode(), "its publicKey")
        signature = base64.b64decode(str(entry.get("sig", "")), validate=True)
    except (UsageError, binascii.Error):
        return EnvelopeSignature(None, named, holds=False)
    return EnvelopeSignature(key, named, holds=named == fingerprint(key) and _holds(key, signature, message))


def pae(payload: bytes) -> bytes:
    """What is really signed: DSSE's pre-authentication encoding of payload and its type (protocol.md)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _canonical(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _envelope(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(untrusted.text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: cannot be read as JSON: {error}; remove it to sign again") from None
    entries = data.get("signatures") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise UsageError(f"{file}: no DSSE envelope with signatures; remove it to sign again")
    return dict(data)


def _payload(envelope: Mapping[str, Any], file: Path) -> bytes:
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise UsageError(f"{file}: payloadType is {envelope.get('payloadType')!r}; expected {PAYLOAD_TYPE}")
    try:
        return base64.b64decode(str(envelope.get("payload", "")), validate=True)
    except binascii.Error as error:
        raise UsageError(f"{file}: its payload is no base64: {error}") from None


def in_words(path: Path) -> str:
    """For a report: not signed; signed with which key; or what does not hold. Whose the key is, ``verify`` says with ``--signers``."""
    try:
        found = attested(path)
    except UsageError as error:
        return f"its signature cannot be read: {error}"
    if found is None:
        return "not signed"
    if not found.intact:
        return f"NOT as it was signed: {(*found.problems, 'a signature does not hold')[0]}"
    return "signed with " + " and ".join(fingerprint(s.key) for s in found.signatures if s.key is not None) + ", every file as signed"


# ---------------------------------------------------------------- keys


def private_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """A private key from an OpenSSH or PEM file. ``passphrase`` is asked when the file is locked.

    Raises ``UsageError``: no such file, a public key, another kind of key, a wrong passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    data = _key_file(path)
    load: Callable[..., Any] = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    if b"PRIVATE KEY" not in data:
        raise UsageError(f"{path}: no private key; give the private half, {ACCEPTED_KEYS}")
    try:
        try:
            key = load(data, password=None)
        except TypeError:  # what cryptography says to a locked key without a passphrase
            key = load(data, password=passphrase())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: this private key cannot be read (is the passphrase right?): {error}") from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise UsageError(f"{path}: a key of kind {type(key).__name__.strip('_')}; accepted are {ACCEPTED_KEYS}: ssh-keygen -t ed25519")
    return key


def signers(path: Path) -> tuple[Signer, ...]:
    """Who is known by this file: a public key (OpenSSH or PEM), or a file of them as ``ssh-keygen -Y`` takes it (``allowed_signers``).

    Raises ``UsageError`` for a file with no key, with a private one, or with a line that is not understood: a restriction that is not
    understood must not be dropped.
    """
    data = _key_file(path)
    if b"PRIVATE KEY" in data:
        raise UsageError(f"{path}: a private key; to check a signature the public half is enough, and nothing else should be handed on")
    if data.lstrip().startswith(b"-----BEGIN"):
        return (Signer(path.name, public_key(data, str(path))),)
    found = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        at = next((i for i, word in enumerate(words) if word in SSH_KINDS), -1)
        if at not in (0, 1) or len(words) < at + 2:
            raise UsageError(
                f"{path}:{number}: {line[:60]!r}: expected '[NAME] KIND KEY [COMMENT]' without options, KIND one of {', '.join(SSH_KINDS)}"
            )
        key = public_key(" ".join(words[at : at + 2]).encode(), f"{path}:{number}")
        found.append(Signer(words[0] if at else " ".join(words[2:]) or path.name, key))
    if not found:
        raise UsageError(f"{path}: no public key in it; accepted are {ACCEPTED_KEYS}, or lines as in an allowed_signers file")
    return tuple(found)


def public_key(data: bytes, where: str) -> PublicKey:
    """A public key, OpenSSH or PEM. Raises ``UsageError`` that names ``where``."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    try:
        key: object = load_pem_public_key(data) if data.lstrip().startswith(b"-----BEGIN") else load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{where}: no public key that can be read: {error}; accepted are {ACCEPTED_KEYS}") from None
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise UsageError(f"{where}: a key of kind {type(key).__name__.strip('_')}; accepted are {ACCEPTED_KEYS}")
    return key


def fingerprint(key: PublicKey) -> str:
    """As ``ssh-keygen -l`` prints it: SHA-256 of the key's SSH form."""
    blob = base64.b64decode(_openssh(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _openssh(key: PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give a file with a key: {ACCEPTED_KEYS}") from None


def _signed(key: PrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return key.sign(message) if isinstance(key, Ed25519PrivateKey) else key.sign(message, _ecdsa(key.curve.key_size))


def _holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, _ecdsa(key.curve.key_size))
    except InvalidSignature:
        return False
    return True


def _ecdsa(bits: int) -> Any:
    """The hash that RFC 5656 gives each curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(hashes.SHA256() if bits <= 256 else hashes.SHA384() if bits <= 384 else hashes.SHA512())
