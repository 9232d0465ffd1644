"""A signed run: two people sign the same bytes, and nothing can be changed, taken away or put beside it without being told."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pytest_h20.__main__ import main
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import GateName, Status, Verdict
from pytest_h20.report.html.page import run_page
from pytest_h20.report.model import Fingerprint, Mode
from pytest_h20.report.run import RunFolder, load_run
from pytest_h20.report.signature import ATTESTATION, attested, in_words, pae, private_key, result_of, sign, signers, statement


def ended(base: Path, mode: Mode = Mode.FULL, **fields: Any) -> Path:
    """A finished run with one check that passed and one that warned."""
    run = RunFolder.create(base / "runs", "sglang", "tagged", mode, required=(GateName.ENVIRONMENT,), **fields)
    run.evidence("nodes/node01/rank0.log", "NCCL INFO Using network IB\n")
    run.evidence("empty.txt", "")
    run.record(Verdict(check="environment.driver", status=Status.PASS, title="One driver", looked_at=2, subject="node01"))
    run.record(Verdict(check="environment.clock", status=Status.WARN, title="Clocks agree", looked_at=2, reason="off by 3 s"))
    run.fingerprint(
        Fingerprint(
            engines={"sglang": {"image": "lmsysorg/sglang:v0.5.16", "image_digest": "sha256:" + "a" * 64}},
            inventory_sha256="b" * 64,
            limits_sha256="c" * 64,
        )
    )
    run.finish()
    return run.path


def keys(folder: Path, name: str, key: Any) -> tuple[Path, Path]:
    """A private and a public OpenSSH file of this key."""
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.OpenSSH, ser.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH) + f" {name}@bastion\n".encode())
    return private, public


def unlocked() -> bytes:
    raise AssertionError("this key has no passphrase")


def test_signed_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended(tmp_path)
    private, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    assert in_words(run) == "not signed"
    assert main(["verify", str(run)]) == 1
    assert main(["sign", str(run), "--key", str(private)]) == 0
    assert main(["verify", str(run), "--signers", str(public)]) == 0
    said = capsys.readouterr().out
    assert "not signed" in said
    assert "authentic: signed by alice@bastion" in said
    assert load_run(run).damage == (), "a signature is no damage of the record"
    assert "every file as signed" in run_page(load_run(run))


def test_whose_key_it_is_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended(tmp_path)
    private, _ = keys(tmp_path, "mallory", ed25519.Ed25519PrivateKey.generate())
    _, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    main(["sign", str(run), "--key", str(private)])
    assert main(["verify", str(run)]) == 1
    assert "anybody can make a key" in capsys.readouterr().out
    assert main(["verify", str(run), "--signers", str(public)]) == 1
    assert "by somebody of --signers" in capsys.readouterr().out


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: str(c.name))
def test_two_people_sign_the_same_bytes(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    run = ended(tmp_path)
    one, one_public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    two, two_public = keys(tmp_path, "bob", ec.generate_private_key(curve))
    for private in (one, two, one):
        sign(run, private_key(private, unlocked))
    found = attested(run)
    assert found is not None
    assert found.intact
    assert len(found.signatures) == 2
    everybody = tmp_path / "allowed_signers"
    lines = [f"{name} {' '.join(p.read_text().split()[:2])}" for name, p in (("alice", one_public), ("bob", two_public))]
    everybody.write_text("# who may sign\n\n" + "\n".join(lines))
    assert [s.name for s in found.known_to(signers(everybody))] == ["alice", "bob"]


def test_pem_keys(tmp_path: Path) -> None:
    run, key = ended(tmp_path), ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    locked = ser.BestAvailableEncryption(b"secret")
    private.write_bytes(key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UsageError, match="is the passphrase right"):
        private_key(private, lambda: b"wrong")
    sign(run, private_key(private, lambda: b"secret"))
    found = attested(run)
    assert found is not None
    assert [s.name for s in found.known_to(signers(public))] == ["public.pem"]


@pytest.mark.parametrize(
    ("mode", "fields", "result"),
    [
        (Mode.FULL, {}, "PASSED"),
        (Mode.FULL, {"conditions": ("the clock is not looked at",)}, "WARNED"),
        (Mode.FULL, {"cannot_accept": ("one test was not collected",)}, "FAILED"),
        (Mode.REHEARSAL, {}, "FAILED"),
    ],
)
def test_result(tmp_path: Path, mode: Mode, fields: dict[str, Any], result: str) -> None:
    """Only an acceptance is PASSED: whoever reads nothing else must not be misled."""
    view = load_run(ended(tmp_path, mode, **fields))
    assert result_of(view) == result
    said = statement(view)
    assert said["predicate"]["result"] == result
    assert said["predicate"]["passedTests"] == ["environment.driver node01"]
    assert said["predicate"]["warnedTests"] == ["environment.clock"]
    assert {c["name"]: c["digest"]["sha256"][0] for c in said["predicate"]["configuration"]} == {
        "inventory": "b",
        "limits": "c",
        "lmsysorg/sglang:v0.5.16": "a",
    }
    assert {s["name"] for s in said["subject"]} >= {"verdict.json", "verdicts.jsonl", "evidence/nodes/node01/rank0.log"}


def _flip(at: float) -> Callable[[Path], None]:
    def changed(file: Path) -> None:
        data = bytearray(file.read_bytes() or b"x")
        data[min(int(at * len(data)), len(data) - 1)] ^= 1
        file.write_bytes(bytes(data))

    return changed


def _link(file: Path) -> None:
    away = file.parent.parent / f"{file.name}.moved"
    shutil.copy(file, away)
    file.unlink()
    file.symlink_to(away)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "first byte": _flip(0.0),
    "a byte in the middle": _flip(0.5),
    "last byte": _flip(1.0),
    "one byte more": lambda file: file.write_bytes(file.read_bytes() + b" "),
    "emptied or filled": lambda file: file.write_bytes(b"" if file.stat().st_size else b"\n"),
    "removed": lambda file: file.unlink(),
    "another of the same length": lambda file: file.write_bytes(b"0" * (file.stat().st_size or 1)),
    "a second one beside it": lambda file: file.with_name(file.name + "~").write_bytes(b""),
    "a link in its place": _link,
    "a folder in its place": _folder,
}


@pytest.mark.parametrize("how", TAMPERINGS, ids=str)
def test_every_change_of_every_file_is_told_by_name(tmp_path: Path, how: str) -> None:
    run = ended(tmp_path)
    private, _ = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    sign(run, private_key(private, unlocked))
    files = sorted(f.relative_to(run) for f in run.rglob("*") if f.is_file() and f.name != ATTESTATION)
    assert len(files) >= 8
    for name in files:
        copy = tmp_path / "copy" / "run"
        shutil.copytree(run, copy)
        TAMPERINGS[how](copy / name)
        found = attested(copy)
        assert found is not None
        assert not found.intact
        assert any(problem.startswith(str(name)) for problem in found.problems), (how, name, found.problems)
        assert in_words(copy).startswith("NOT as it was signed")
        shutil.rmtree(copy.parent)


def _payload_says(envelope: dict[str, Any]) -> None:
    text = base64.b64decode(envelope["payload"]).replace(b'"FAILED"', b'"PASSED"')
    envelope["payload"] = base64.b64encode(text).decode()


def _foreign_key(envelope: dict[str, Any]) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    envelope["signatures"][0]["publicKey"] = key.public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "change",
    [
        _payload_says,
        _foreign_key,
        lambda e: e["signatures"][0].update(sig=base64.b64encode(b"\0" * 64).decode()),
        lambda e: e["signatures"][0].update(sig="not base64"),
        lambda e: e["signatures"][0].update(keyid="SHA256:of-somebody-else"),
        lambda e: e["signatures"][0].update(publicKey=""),
        lambda e: e["signatures"].append({"keyid": "SHA256:alice"}),
    ],
    ids=["result", "foreign key", "zeroes", "no base64", "other key id", "no key", "a signature of nothing"],
)
def test_an_attestation_that_was_changed_does_not_hold(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    run = ended(tmp_path, Mode.REHEARSAL)
    private, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    sign(run, private_key(private, unlocked))
    envelope = json.loads((run / ATTESTATION).read_text())
    change(envelope)
    (run / ATTESTATION).write_text(json.dumps(envelope))
    assert main(["verify", str(run), "--signers", str(public)]) == 1


def test_no_bit_of_an_attestation_can_be_turned(tmp_path: Path) -> None:
    """Payload, key, signature, names and punctuation alike; every byte was tried once, here every 29th."""
    run = ended(tmp_path)
    private, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    sign(run, private_key(private, unlocked))
    good, who = (run / ATTESTATION).read_bytes(), signers(public)
    turned = range(0, len(good), 29)
    assert len(turned) > 60
    for at in turned:
        (run / ATTESTATION).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            found = attested(run)
        except UsageError:
            continue  # no envelope any more, which is said
        assert found is not None
        assert not (found.intact and found.known_to(who)), (at, good[max(0, at - 20) : at + 20])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"signatures": []}', '{"signatures": [{}], "payloadType": "text/plain"}', "[" * 5000])
def test_what_is_no_envelope_is_said(tmp_path: Path, text: str) -> None:
    run = ended(tmp_path)
    (run / ATTESTATION).write_text(text)
    with pytest.raises(UsageError, match=ATTESTATION):
        attested(run)
    assert main(["verify", str(run)]) == 2
    assert in_words(run).startswith("its signature cannot be read")


def test_what_nobody_should_sign(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    unfinished = RunFolder.create(tmp_path / "runs", "vllm", "x", Mode.FULL)
    with pytest.raises(UsageError, match="did not finish"):
        sign(unfinished.path, key)
    damaged = ended(tmp_path)
    (damaged / "evidence/empty.txt").write_text("x")
    (damaged / "events.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="records are damaged"):
        sign(damaged, key)
    changed = ended(tmp_path)
    sign(changed, key)
    (changed / "note.txt").write_text("added later")
    with pytest.raises(UsageError, match="was signed over other files"):
        sign(changed, key)


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    rsa_private, rsa_public = keys(tmp_path, "old", rsa.generate_private_key(65537, 2048))
    options = tmp_path / "options"
    options.write_text(f'alice valid-before="20200101" {public.read_text()}')
    (tmp_path / "empty").write_text("# nobody\n")
    for refused, why in ((public, "no private key"), (rsa_private, "ssh-keygen -t ed25519"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=why):
            private_key(refused, unlocked)
    for refused, why in (
        (private, "the public half is enough"),
        (rsa_public, "without options"),
        (options, "without options"),
        (tmp_path / "empty", "no public key in it"),
    ):
        with pytest.raises(UsageError, match=why):
            signers(refused)


def test_fingerprint_and_encoding_are_those_of_the_standards(tmp_path: Path) -> None:
    """DSSE's own test vector of the encoding (protocol.md), and the fingerprint that ssh-keygen prints."""
    assert pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    _, public = keys(tmp_path, "alice", ed25519.Ed25519PrivateKey.generate())
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here")
    told = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True).stdout
    assert signers(public)[0].fingerprint in told
