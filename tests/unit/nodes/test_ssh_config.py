"""What ssh would do: its own answers, recorded and asked for here, paramiko's where there is no ssh, and names that attack."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pytest_h20.core.errors import TransportError, UsageError
from pytest_h20.nodes.connect import check_host_key, open_transport, refuse_unusable
from pytest_h20.nodes.ssh_config import SshSettings, SshTarget, jump_of, parse, resolve

RECORDED = """\
host node-a
user ops
hostname node-a.example
port 2300
canonicalizehostname false
identitiesonly no
stricthostkeychecking ask
identityfile {folder}/%r_%h
identityfile ~/.ssh/id_rsa
certificatefile {folder}/signed-cert.pub
identityagent {folder}/agent
hostkeyalias al
globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2
userknownhostsfile /root/.ssh/kh /root/a b/kh
proxycommand nc -X 5 %h %p %r %n %k 100%%
"""
"""What OpenSSH 9.2p1 printed, without the lines that nobody reads here; the folder is filled in."""
CONFIG = """\
Include {folder}/included
Host node-a
  HostName %h.example
  Port 2200
  CertificateFile {folder}/signed-cert.pub
  HostKeyAlias al
  IdentityAgent none
  ProxyCommand nc %h %p
"""
INCLUDED = "Match user ops\n  Port 2300\n  IdentityFile {folder}/%r_%h\nMatch all\n"


def standin(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """An ``ssh`` that runs this script and notes its arguments, one a line."""
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/argv\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return folder / "argv"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "included").write_text(INCLUDED.format(folder=tmp_path))
    (tmp_path / "ops_node-a.example").write_text("a key")
    return path


def settings(config: Path | None = None, **changes: object) -> SshSettings:
    where = {"use_ssh_config": False} if config is None else {"ssh_config": config}
    return SshSettings(**{"host": "node-a", **where, **changes})  # type: ignore[arg-type]


def no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


def test_a_recorded_answer(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = RECORDED.format(folder=tmp_path)
    argv = standin(tmp_path, monkeypatch, f"cat <<'END'\n{recorded}END")
    target = resolve("n", settings(config, user="ops", port=2300))
    assert argv.read_text().split() == ["-G", "-F", str(config), "-p", "2300", "-l", "ops", "--", "node-a"]
    assert (target.address, target.host_key_name, target.certified_name) == ("ops@node-a.example:2300", "al", "al")
    assert target.proxy == "nc -X 5 node-a.example 2300 ops node-a al 100%"
    assert target.key_files[0] == tmp_path / "ops_node-a.example"
    assert target.certificates == (tmp_path / "signed-cert.pub",)
    assert target.agent == str(tmp_path / "agent")
    assert [str(p) for p in target.known_hosts] == [
        "/root/.ssh/kh",
        "/root/a b/kh",
        "/etc/ssh/ssh_known_hosts",
        "/etc/ssh/ssh_known_hosts2",
    ]


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh on this machine")
def test_the_real_one_follows_include_and_match(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/somewhere")
    target = resolve("n", settings(config, user="ops"))
    assert target.address == "ops@node-a.example:2300"
    assert (target.host_key_name, target.proxy, target.agent, target.note) == ("al", "nc node-a.example 2300", None, "")
    assert target.key_files == (tmp_path / "ops_node-a.example",)
    assert target.certificates == (tmp_path / "signed-cert.pub",)
    assert resolve("n", settings(config)).port == 2200, "the same host as another user"
    assert resolve("n", settings(config, port=9)).proxy == "nc node-a.example 9", "what is explicit wins, in tokens too"


def test_without_ssh_the_file_is_read_and_errors_say_what_was_not(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_ssh(monkeypatch)
    target = resolve("n", settings(config, port=9))
    assert (target.host, target.port, target.host_key_name, target.agent) == ("node-a.example", 9, "al", None)
    assert target.proxy == "nc node-a.example 9"
    assert target.certificates == (tmp_path / "signed-cert.pub",)
    assert str(target.error("no answer")).endswith(
        f"no answer. {config} has an `Include`, which is followed only where ssh is installed: install openssh-client"
    )
    config.write_text("Host node-a\n  Port 7\n")
    target = resolve("n", settings(config))
    assert (target.port, target.note) == (7, "")


def test_an_ssh_that_knows_no_such_user_is_no_obstacle(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin(tmp_path, monkeypatch, "echo 'No user exists for uid 4711' >&2; exit 255")
    assert resolve("n", settings(config)).port == 2200


def test_what_ssh_refuses_is_told_in_its_words(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin(
        tmp_path,
        monkeypatch,
        "echo 'Pseudo-terminal will not be allocated because stdin is not a terminal.' >&2\n"
        "echo 'config: line 1: Bad configuration option: foo' >&2\nexit 255",
    )
    with pytest.raises(UsageError, match=r"^n: .*config cannot be used: `.*ssh -G .*` says: config: line 1: Bad .*: foo\. Mend it"):
        resolve("n", settings(config))


HOSTILE = (
    "-oProxyCommand=touch /tmp/x",
    "-oProxyCommand=id",
    "--",
    "a;id",
    "$(id)",
    "`id`",
    "a b",
    "a\nHost *",
    "a'b",
    "a|b",
    "a\\",
    "a\x1b[2J",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["host", "user", "jump"])
def test_a_hostile_name_becomes_no_option_and_no_command(
    text: str, field: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = standin(tmp_path, monkeypatch, "exit 0")
    wrong = settings(jump=settings(config, host=text)) if field == "jump" else settings(config, **{field: text})
    with pytest.raises(UsageError, match="is refused: it may not begin with"):
        refuse_unusable("n", wrong)
    assert not argv.exists(), "ssh was never asked about it"


@pytest.mark.parametrize(("host", "user"), [("node_1.lab", "ops"), ("fd00::1", "DOM\\ops"), ("fe80::1%eth0", "a-b"), ("10.0.0.1", "x+y@z")])
def test_unusual_names_that_are_none(host: str, user: str) -> None:
    target = resolve("n", settings(host=host, user=user))
    assert (target.host, target.user) == (host, user)


def test_a_hostile_answer_is_refused_too(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin(tmp_path, monkeypatch, "printf 'hostname -oProxyCommand=id\\nuser root\\nport 22\\n'")
    with pytest.raises(UsageError, match="address '-oProxyCommand=id' is refused"):
        resolve("n", settings(config))


@pytest.mark.parametrize("text", ["gate:x", "a,,b", "", "[fd00::1]x", "a@b:123456"])
def test_hops_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^ssh\.jump: .*is no list of user@host:port"):
        jump_of(text, settings(), "ssh.jump")


def test_keywords_that_come_more_than_once() -> None:
    assert parse("identityfile a\nidentityfile b\nuserknownhostsfile none\nlocalforward\n") == {
        "identityfile": ["a", "b"],
        "userknownhostsfile": ["none"],
        "localforward": [""],
    }


def test_commands_for_a_person_reach_the_same_machine(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_ssh(monkeypatch)
    assert resolve("n", settings()).command("ssh", "true") == "ssh -F none node-a true"
    assert resolve("n", settings(config)).command("ssh", "true") == f"ssh -F {config} node-a true"
    known = tmp_path / "known hosts"
    far = settings(config, port=7, user="ops", known_hosts=known, jump=jump_of("one,me@[fd00::1]:22", settings(), "x"))
    assert resolve("n", far).command("ssh-copy-id -i KEY.pub") == (
        f"ssh-copy-id -i KEY.pub -F {config} -p 7 -o 'UserKnownHostsFile={known}' -o 'ProxyJump=one,me@[fd00::1]:22' ops@node-a"
    )


def _host_key_advice(target: SshTarget) -> str:
    with pytest.raises(TransportError) as caught:
        check_host_key(target, "ssh-ed25519", b"key")
    return str(caught.value).rpartition("if it is right: ")[2]


def test_the_key_of_a_host_behind_another_is_asked_for_through_ssh(tmp_path: Path) -> None:
    """ssh-keyscan reads no configuration and knows no jump host: its advice would be about another machine, or nobody."""
    known = tmp_path / "known"
    assert _host_key_advice(resolve("n", settings(known_hosts=known))).startswith("ssh-keyscan -t ed25519 node-a >> ")
    behind = _host_key_advice(resolve("n", settings(known_hosts=known, jump=settings(host="gate"))))
    assert behind.startswith("ssh -o StrictHostKeyChecking=ask -F none ")
    assert "ProxyJump=gate" in behind


def _through(proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    standin(tmp_path, monkeypatch, f"cat <<'END'\nhostname node-a\nuser root\nport 22\nproxycommand {proxy}\nEND")
    (tmp_path / "config").write_text("")
    with pytest.raises(TransportError) as caught:
        open_transport(resolve("n", settings(tmp_path / "config", connect_timeout=seconds)))
    return str(caught.value)


def test_a_proxy_command_that_fails_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _through("sh -c 'echo no way to %h >&2; exit 7'", tmp_path, monkeypatch, 10.0)
    assert "no SSH server answers through the ProxyCommand `sh -c 'echo no way to node-a >&2; exit 7'`" in text
    assert "it said: no way to node-a" in text
    assert text.endswith("Next: run it by hand")


def test_a_proxy_command_that_is_silent_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _through(f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600'", tmp_path, monkeypatch, 0.5)
    assert "it still runs; it said: nothing" in text
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_uid_without_a_name_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with the caller's uid: ssh itself says "No user exists for uid"."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(UsageError, match=r"has no name on this machine.*--build-arg UID=\d+ "):
        resolve("node01", SshSettings(host="10.0.0.1", use_ssh_config=False))


def test_a_public_key_is_told_as_one(config: Path, tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@here\n")
    with pytest.raises(UsageError) as caught:
        refuse_unusable("node01", settings(config, key_file=tmp_path / "id.pub"))
    assert str(caught.value) == f"node01: {tmp_path}/id.pub is a public key: the private one is wanted, {tmp_path}/id most likely"
