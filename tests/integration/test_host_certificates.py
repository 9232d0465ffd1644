"""Host certificates as OpenSSH takes them, against a real sshd; and every way in which one is not good enough."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.core.errors import TransportError
from pytest_h20.nodes.connect import certificate_problem
from pytest_h20.nodes.ssh import SshNode
from pytest_h20.nodes.ssh_config import resolve
from tests.integration.sshd import Sshd, keygen


class Certified:
    """An sshd with a host certificate, and the authority that signed it."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.authority = keygen(folder / "ca", "ed25519")
        self.sshd = Sshd(folder / "sshd")
        self.sshd.stop()
        if kind != "ed25519":
            for path in (self.sshd.host_key, self.sshd.host_key.with_suffix(".pub")):
                path.unlink()
            keygen(self.sshd.host_key, kind)
        self.config = (folder / "sshd" / "sshd_config").read_text()
        self.certificate = folder / "sshd" / "host_key-cert.pub"

    def signed(self, *how: str, names: str = "127.0.0.1,node01") -> None:
        """Sign the host key and start sshd with the certificate."""
        self.sshd.stop()
        sign = ["ssh-keygen", "-q", "-s", str(self.authority), "-I", "host", *(how or ("-h",))]
        subprocess.run([*sign, *(["-n", names] if names else []), f"{self.sshd.host_key}.pub"], check=True, capture_output=True)
        (self.folder / "sshd" / "sshd_config").write_text(f"{self.config}HostCertificate {self.certificate}\n")
        self.sshd.start()

    def trust(self, line: str) -> None:
        """Write known_hosts: ``{ca}`` is the authority's key, ``{port}`` the server's port."""
        ca = " ".join((self.folder / "ca.pub").read_text().split()[:2])
        self.sshd.known_hosts.write_text(line.format(ca=ca, port=self.sshd.port) + "\n")

    def refused(self) -> str:
        with pytest.raises(TransportError) as caught, SshNode("node-a", self.sshd.settings()) as node:
            node.run("true")
        return str(caught.value)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    made = Certified(tmp_path_factory.mktemp("certified") / "it", "ed25519")
    yield made
    made.sshd.stop()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("names", ["[127.0.0.1]:{port}", "127.0.0.1", "*"])
def test_a_host_whose_key_an_authority_signed_is_accepted(tmp_path: Path, kind: str, names: str) -> None:
    made = Certified(tmp_path / "it", kind)
    try:
        made.signed()
        made.trust(f"@cert-authority {names} {{ca}}")
        with SshNode("node-a", made.sshd.settings()) as node:
            assert node.run("echo in").stdout == "in\n"
    finally:
        made.sshd.stop()


def test_another_authority_is_not_enough(certified: Certified, tmp_path: Path) -> None:
    certified.signed()
    other = " ".join(keygen(tmp_path / "other").with_suffix(".pub").read_text().split()[:2])
    certified.trust(f"@cert-authority * {other}")
    assert "in no @cert-authority line" in certified.refused()


def test_an_authority_for_other_hosts_is_not_enough(certified: Certified) -> None:
    certified.signed()
    certified.trust("@cert-authority *.example.com {ca}")
    assert "the host key is not known" in certified.refused()


def test_a_certificate_for_another_name(certified: Certified) -> None:
    certified.signed(names="node77")
    certified.trust("@cert-authority * {ca}")
    assert "it is for node77, not for '127.0.0.1'" in certified.refused()


def test_a_certificate_without_names(certified: Certified) -> None:
    certified.signed(names="")
    certified.trust("@cert-authority * {ca}")
    assert "it is for no name at all" in certified.refused()


def test_a_certificate_that_is_no_more_valid(certified: Certified) -> None:
    certified.signed("-h", "-V", "20200101:20200102")
    certified.trust("@cert-authority * {ca}")
    assert "it is not valid now" in certified.refused()


def test_a_revoked_authority(certified: Certified) -> None:
    certified.signed()
    certified.trust("@cert-authority * {ca}\n@revoked * {ca}")
    assert "as revoked" in certified.refused()


def test_a_bare_key_that_is_known_is_enough_beside_a_bad_certificate(certified: Certified) -> None:
    """As with OpenSSH."""
    certified.signed(names="node77")
    kind, key, *_ = certified.sshd.host_key.with_suffix(".pub").read_text().split()
    certified.trust(f"@cert-authority * {{ca}}\n[127.0.0.1]:{{port}} {kind} {key}")
    with SshNode("node-a", certified.sshd.settings()) as node:
        assert node.run("echo in").stdout == "in\n"


def test_what_is_wrong_with_a_certificate(certified: Certified) -> None:
    """Without a server: a user's certificate, a changed byte, another key in it, the time of a clock that is wrong, any bytes."""
    import base64

    def blob(path: Path) -> bytes:
        return base64.b64decode(path.read_text().split()[1])

    certified.signed()
    certified.trust("@cert-authority * {ca}")
    target = resolve("node-a", certified.sshd.settings())
    key, good = blob(certified.sshd.host_key.with_suffix(".pub")), blob(certified.certificate)
    assert certificate_problem(target, key, good) == ""
    assert "not valid now" in certificate_problem(replace(target), key, good, now=2.0**64)
    assert "another key" in certificate_problem(target, blob(certified.folder / "ca.pub"), good)
    assert certificate_problem(target, key, good[:-1] + bytes([good[-1] ^ 1])) != ""
    for at in range(0, len(good), 7):
        assert certificate_problem(target, key, good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :]) != "", at
        assert certificate_problem(target, key, good[:at]) != "", at
    certified.signed("-O", "clear", names="root")
    assert "a user's certificate" in certificate_problem(target, key, blob(certified.certificate))
