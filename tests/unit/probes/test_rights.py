"""Commands that need root: those that snippets run are those that are listed, in every shell, whatever sudo says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_h20.probes import gpu, host, kernel_log, net, rdma, rights, script, wire
from pytest_h20.probes.counters import COUNTERS
from pytest_h20.probes.script import HINT_RIGHTS, Missing, Probe, Section, build, split

SHELLS = [s for s in ("dash", "bash") if shutil.which(s)]  # busybox has an `id` of its own: no test can be somebody else there
LISTED = rights.rights(["xgbe1"], ["mlx5_1"], "/var/run/docker.sock")
DIAL = LISTED[-1]

READ = Probe("read", "priv reader --all || exit 3", str)


def snippets() -> str:
    """Every snippet of every probe."""
    modules = (gpu, host, kernel_log, net, rdma, wire)
    probes = [p for module in modules for p in vars(module).values() if isinstance(p, Probe)]
    assert len(probes) > 20
    return "\n".join(p.snippet for p in (*probes, COUNTERS))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder of programs: `id` is nobody's, `reader` reads more as root, `sudo` does what the test wants."""
    programs = {
        "id": 'case $1 in -u) echo "${AS:-1000}";; *) echo ops;; esac',
        "reader": '[ "${AS:-1000}" = 0 ] && { echo everything "$@"; exit 0; }\n'
        '[ -z "$STRICT" ] || { echo "not permitted" >&2; exit 1; }\necho a little',
        "sudo": '[ "$1 $2" = "-n --" ] || exit 99\nshift 2; echo "$*" >>"$LOG"\n'
        '[ -z "$REFUSES" ] || { echo "$REFUSES" >&2; exit 1; }\nAS=0 exec "$@"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def ask(node: Path, shell: str = "dash", probe: Probe[str] = READ, **environment: str) -> Section:
    env = {"PATH": f"{node}:/usr/bin:/bin", "LOG": f"{node}/log", **environment}
    done = subprocess.run([*shell.split(), "-c", build([probe])], env=env, capture_output=True, text=True, check=True, timeout=60)
    return split(done.stdout)[probe.name]


def test_what_is_run_is_what_is_listed() -> None:
    said = re.findall(r"\bpriv ([a-z_]+(?: (?!2>)[-a-zA-Z0-9$]+)*)", snippets())
    ran = {re.sub(r"\$[1d]", "xgbe1", command.replace("$2", "mlx5_1")).strip() for command in said}
    assert ran == {right.command for right in LISTED if right is not DIAL}
    assert "sudo" not in snippets(), "only `priv` says it"


@pytest.mark.parametrize("shell", SHELLS)
def test_sudo_runs_the_command_word_for_word(node: Path, shell: str) -> None:
    section = ask(node, shell, H20_SUDO="1")
    assert (section.rc, section.out, section.without_rights) == (0, "everything --all\n", {})
    assert (node / "log").read_text() == "reader --all\n"


def test_root_needs_no_sudo(node: Path) -> None:
    assert ask(node, H20_SUDO="1", AS="0").out == "everything --all\n"
    assert not (node / "log").exists()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "words", ["sudo: a password is required", "Sorry, user ops is not allowed to execute 'reader' as root on n.", "sh: 1: sudo: not found"]
)
def test_what_sudo_refuses_is_said_and_read_as_far_as_it_goes(node: Path, shell: str, words: str) -> None:
    section = ask(node, shell, H20_SUDO="1", REFUSES=words)
    assert (section.rc, section.out, section.without_rights) == (0, "a little\n", {"reader --all": words})
    lost = READ.read({"read": ask(node, shell, H20_SUDO="1", REFUSES=words, STRICT="1")})
    assert isinstance(lost, Missing)
    assert lost.reason == f"probe 'read' ended with 3: not permitted; `reader --all` needs root: {words}"
    assert lost.hint == HINT_RIGHTS


def test_a_login_that_is_not_root_says_so(node: Path) -> None:
    section = ask(node)
    assert (section.out, section.without_rights) == ("a little\n", {"reader --all": "this login is not root"})
    assert not (node / "log").exists()


def test_a_program_that_fails_as_root_was_not_refused(node: Path) -> None:
    (node / "reader").write_text("#!/bin/sh\necho 'netlink error: sudo is no cure' >&2; exit 7\n")
    section = ask(node, H20_SUDO="1")
    assert (section.rc, section.without_rights, section.last_words) == (3, {}, "netlink error: sudo is no cure")
    (node / "reader").unlink()
    assert ask(node, H20_SUDO="1").without_rights == {}, "a program that is not installed needs no rights"


def test_the_file_says_each_command_and_nothing_with_a_pattern() -> None:
    text = rights.sudoers(["ops"], rights.rights(["xgbe1", "eth0.100:1"], ["mlx5_1"], "/run/podman/podman.sock"))
    lines = [line.removeprefix("ops ALL=(root) NOPASSWD: ") for line in text.splitlines() if line.startswith("ops ")]
    assert '/usr/bin/dmesg ""' in lines, "dmesg without arguments, not with any: `dmesg -C` clears the log"
    assert "/usr/sbin/ethtool -m eth0.100\\:1" in lines
    assert lines[-1] == "/usr/bin/podman --url unix\\:///run/podman/podman.sock system dial-stdio"
    assert not re.search(r"(?<!\\)[*?\[]", "".join(lines))
    assert all(re.match(r"/usr/(local/)?s?bin/\w+ ", part) for line in lines for part in line.split(", "))


def test_what_a_node_grants_is_told(node: Path) -> None:
    probe = rights.GRANTED.with_args("reader --all", "not-installed -x")
    told = probe.read({"granted": ask(node, probe=probe, H20_SUDO="1")})  # type: ignore[arg-type]
    assert told == rights.Granted("ops", False, ("reader --all",), {})
    told = probe.read({"granted": ask(node, probe=probe, H20_SUDO="1", REFUSES="sudo: a password is required")})  # type: ignore[arg-type]
    assert told == rights.Granted("ops", False, (), {"reader --all": "sudo: a password is required"})
    assert probe.read({"granted": ask(node, probe=probe)}) == rights.Granted("ops", False, (), {})  # type: ignore[arg-type]


def test_words() -> None:
    assert script.in_words({"a": "x", "b": "x", "c": "y"}) == "`a`, `b` need root: x; `c` needs root: y"
    assert script.in_words({}) == ""
