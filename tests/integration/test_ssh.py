"""The SSH transport against a real sshd on loopback: what is promised, and every way to fail."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError, UsageError
from pytest_h20.nodes.base import Node
from pytest_h20.nodes.connect import LocalSettings, connect, known_keys, tcp_problem
from pytest_h20.nodes.ssh import SshNode
from pytest_h20.nodes.ssh_config import SshSettings, resolve
from tests.integration.sshd import Sshd, free_port, keygen


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(sshd: Sshd) -> Iterator[SshNode]:
    with SshNode("node-a", sshd.settings()) as made:
        yield made


def _fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]


def alive(pattern: str) -> list[str]:
    """Processes whose command line matches, other than the one that asks."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if re.search(pattern, line) and "ps -eo" not in line]


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return check()


class TestCommands:
    def test_it_is_a_node(self, node: SshNode) -> None:
        assert isinstance(node, Node)
        assert node.name == "node-a"

    def test_streams_and_status(self, node: SshNode) -> None:
        result = node.run("echo out; echo err >&2; exit 3")
        assert (result.rc, result.stdout, result.stderr) == (3, "out\n", "err\n")

    @pytest.mark.parametrize("text", ["a 'b' \"c\"", "$(id) `id` $HOME", "semi;colon & pipe |", "new\nline", "back\\slash !x", "你好"])
    def test_arguments_are_quoted_by_construction(self, node: SshNode, text: str) -> None:
        assert node.run("printf %%s %s", text).stdout == text

    def test_a_percent_without_arguments_needs_no_doubling(self, node: SshNode) -> None:
        assert node.run("date +%Y").stdout.strip().isdigit()

    def test_stdin_bytes_arrive_whole(self, node: SshNode) -> None:
        data = os.urandom(100_000)
        expected = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout.decode()
        assert node.run("sha256sum", stdin=data).stdout == expected

    def test_both_streams_are_drained_beyond_every_window(self, node: SshNode) -> None:
        result = node.run("head -c 5000000 /dev/zero | tr '\\0' e >&2; head -c 5000000 /dev/zero | tr '\\0' o")
        assert (len(result.stdout), len(result.stderr)) == (5_000_000, 5_000_000)

    def test_large_stdin_while_large_output(self, node: SshNode) -> None:
        data = b"x" * 8_000_000
        assert len(node.run("cat", stdin=data).stdout) == len(data)

    def test_a_command_that_does_not_read_its_stdin(self, node: SshNode) -> None:
        assert node.run("exit 4", stdin=b"x" * 3_000_000).rc == 4

    def test_bytes_that_are_no_utf8_are_replaced(self, node: SshNode) -> None:
        assert node.run("printf '\\377ok'").stdout == "�ok"

    def test_output_without_newline_and_none_at_all(self, node: SshNode) -> None:
        assert node.run("printf abc").stdout == "abc"
        assert node.run("true").stdout == ""

    def test_a_child_in_the_background_does_not_hold_the_result(self, node: SshNode) -> None:
        mark = f"sleep 4{os.getpid() % 1000:03d}"
        began = time.monotonic()
        result = node.run(f"{mark} & echo $!")
        assert time.monotonic() - began < 30  # it holds the streams for more than an hour
        os.kill(int(result.stdout), 9)

    def test_a_command_ended_by_a_signal(self, node: SshNode) -> None:
        assert node.run("kill -9 $$").rc == 137

    def test_the_deadline_kills_the_command_and_its_children(self, node: SshNode) -> None:
        mark = f"7{os.getpid() % 10000:04d}"
        script = (
            f"echo partial; trap '' TERM; (sleep {mark}1 & timeout 9999 sleep {mark}2 & wait) & "
            f"setsid sleep {mark}3 & sleep {mark}4; sleep {mark}5"
        )
        with pytest.raises(CommandTimeout) as caught:
            node.run(script, timeout=1.0)
        assert "deadline of 1 s" in str(caught.value)
        assert "killed with its children" in str(caught.value)
        assert "partial" in str(caught.value)
        assert eventually(lambda: not alive(f"sleep {mark}"))

    def test_a_command_ends_when_its_caller_is_killed(self, sshd: Sshd) -> None:
        mark = f"6{os.getpid() % 10000:04d}"
        given = f"host='127.0.0.1', port={sshd.port}, user='root', key_file={str(sshd.key)!r}, known_hosts={str(sshd.known_hosts)!r}"
        program = (
            "from pytest_h20.nodes.ssh_config import SshSettings; from pytest_h20.nodes.ssh import SshNode\n"
            f"SshNode('node-a', SshSettings({given})).run('setsid sleep {mark}1 & sleep {mark}2', timeout=900)"
        )
        caller = subprocess.Popen([sys.executable, "-c", program])
        try:
            assert eventually(lambda: len(alive(rf"^ *\d+ sleep {mark}")) == 2, 20)
        finally:
            caller.kill()
            caller.wait()
        assert eventually(lambda: not alive(rf"^ *\d+ sleep {mark}"), 20)

    def test_the_deadline_is_told_soon_although_nothing_answers(self, tmp_path: Path) -> None:
        server = Sshd(tmp_path / "stalls")
        try:
            with SshNode("node-a", server.settings()) as node:
                node.run("true")
                assert server.process is not None
                stopped = [server.process.pid, *server.sessions()]

                def stall(_: str) -> None:
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)

                began = time.monotonic()
                with pytest.raises(CommandTimeout, match=r"deadline of 2 s; it could not be killed \(the node does not answer\)"):
                    node.stream("echo go; sleep 60", on_line=stall, timeout=2.0)
                assert time.monotonic() - began < 15  # was 24 s and more
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
        finally:
            server.stop()

    def test_the_deadline_is_wall_clock_even_while_output_comes(self, node: SshNode) -> None:
        with pytest.raises(CommandTimeout, match="deadline of 1 s"):
            node.run("while :; do echo busy; sleep 0.05; done", timeout=1.0)

    def test_stream_hands_over_lines_of_both_streams_as_they_come(self, node: SshNode) -> None:
        lines: list[str] = []
        first = threading.Event()

        def take(line: str) -> None:
            lines.append(line)
            first.set()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(node.stream, "echo one; echo two >&2; read x </dev/null; sleep 2; printf three", on_line=take)
            assert first.wait(30)
            assert not running.done()
            result = running.result()
        assert sorted(lines) == ["one", "three", "two"]
        assert (result.stdout, result.stderr) == ("one\nthree", "two\n")

    def test_what_on_line_raises_kills_the_command_and_comes_through(self, node: SshNode) -> None:
        mark = f"6{os.getpid() % 10000:04d}"

        def take(line: str) -> None:
            raise OSError(f"enough of {line}")

        with pytest.raises(OSError, match="enough of go"):
            node.stream(f"echo go; sleep {mark}", on_line=take)
        assert eventually(lambda: not alive(f"sleep {mark}"))

    def test_a_command_that_is_too_long_says_so(self, node: SshNode) -> None:
        with pytest.raises(H20Error, match=r"Node\.put"):
            node.run("echo " + "x" * 200_000)

    def test_more_commands_than_sessions_queue(self, node: SshNode) -> None:
        with ThreadPoolExecutor(30) as pool:
            results = list(pool.map(lambda n: node.run("sleep 0.2; echo %s", n).stdout, range(30)))
        assert results == [f"{n}\n" for n in range(30)]


class TestFiles:
    def test_put_and_get_with_mode_offset_and_limit(self, node: SshNode, tmp_path: Path) -> None:
        path = tmp_path / "a 'file'"
        data = os.urandom(1_000_000)
        node.put(data, str(path), 0o640)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o640
        assert node.get(str(path)) == data
        assert node.get(str(path), 999_990) == data[-10:]
        assert node.get(str(path), 5, 300_000) == data[5:300_005]
        assert node.get(str(path), 2_000_000) == b""
        assert node.get(str(path), 0, 0) == b""
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_kernel_files_have_no_honest_size(self, node: SshNode) -> None:
        assert node.get("/proc/sys/kernel/ostype") == b"Linux\n"

    def test_missing_files_and_folders(self, node: SshNode, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            node.get(str(tmp_path / "nope"))
        with pytest.raises(H20Error, match="folder"):
            node.get(str(tmp_path))
        with pytest.raises(H20Error, match=r"folder .* is not there"):
            node.put(b"x", str(tmp_path / "no" / "file"))

    def test_without_the_sftp_subsystem_it_works_through_the_shell(self, tmp_path: Path) -> None:
        server = Sshd(tmp_path / "sshd", {"Subsystem": ""})
        try:
            with SshNode("node-b", server.settings()) as node:
                path = tmp_path / "file"
                data = os.urandom(300_000)
                node.put(data, str(path), 0o600)
                assert path.read_bytes() == data
                assert path.stat().st_mode & 0o777 == 0o600
                assert node.get(str(path), 7, 100_000) == data[7:100_007]
                assert node.get(str(path)) == data
                with pytest.raises(FileNotFoundError):
                    node.get(str(tmp_path / "nope"))
                with pytest.raises(H20Error, match="cannot write"):
                    node.put(b"x", str(tmp_path / "no" / "file"))
        finally:
            server.stop()


class TestBrokenConnections:
    def test_a_drop_between_commands_is_mended(self, sshd: Sshd) -> None:
        with SshNode("node-a", sshd.settings()) as node:
            assert node.run("echo one").ok
            sshd.cut()
            assert node.run("echo two").stdout == "two\n"
            sshd.cut()
            assert node.get("/proc/sys/kernel/ostype") == b"Linux\n"

    def test_a_running_command_is_not_run_again(self, sshd: Sshd, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        mark = f"5{os.getpid() % 10000:04d}"
        with SshNode("node-a", sshd.settings()) as node:
            node.connect()
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(node.run, f"echo started >> {journal}; echo seen; sleep {mark}")
                assert eventually(journal.exists, 30)
                time.sleep(0.3)
                sshd.cut()
                with pytest.raises(TransportError) as caught:
                    running.result(60)
            text = str(caught.value)
            assert "connection broke" in text
            assert "it ran as pid" in text
            assert "not run again" in text
            assert "seen" in text
            assert journal.read_text() == "started\n"
            assert eventually(lambda: not alive(f"sleep {mark}"))

    def test_a_server_that_is_gone_is_one_clear_line(self, tmp_path: Path) -> None:
        server = Sshd(tmp_path / "sshd")
        try:
            with SshNode("node-a", server.settings()) as node:
                assert node.run("true").ok
                server.stop()
                with pytest.raises(TransportError, match=r"node-a .*refused"):
                    node.run("true")
                server.start()
                assert node.run("echo back").stdout == "back\n"
        finally:
            server.stop()

    def test_close_kills_what_still_runs(self, sshd: Sshd) -> None:
        mark = f"3{os.getpid() % 10000:04d}"
        node = SshNode("node-a", sshd.settings())
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(node.run, f"sleep {mark}")
            assert eventually(lambda: bool(alive(f"^ *[0-9]+ sleep {mark}")), 30)
            node.close()
            assert running.exception(30) is not None or not running.result().ok
        assert eventually(lambda: not alive(f"sleep {mark}"))
        node.close()
        with pytest.raises(TransportError, match="closed by this program"):
            node.run("true")


class TestOddServers:
    def test_noise_of_the_login_shell_is_no_output(self, tmp_path: Path) -> None:
        home = tmp_path / "noisy"
        home.write_text("#!/bin/bash\necho 'Welcome! h20-'; echo warning >&2\nexec /bin/bash \"$@\"\n")
        home.chmod(0o755)
        # what a noisy .bashrc does, for every command of this server
        server = Sshd(tmp_path / "sshd", {"ForceCommand": f'{home} -c "$SSH_ORIGINAL_COMMAND"', "Banner": "/etc/hostname"})
        try:
            with SshNode("noisy", server.settings()) as node:
                result = node.run("echo clean; echo err >&2")
                assert (result.stdout, result.stderr) == ("clean\n", "err\n")
                assert node.run("cat", stdin=b"in").stdout == "in"
        finally:
            server.stop()

    def test_a_forced_command_is_explained(self, tmp_path: Path) -> None:
        server = Sshd(tmp_path / "sshd", {"ForceCommand": "echo 'this account is for backups only'; exit 7"})
        try:
            with SshNode("forced", server.settings()) as node, pytest.raises(TransportError) as caught:
                node.run("true")
            assert "this account is for backups only" in str(caught.value)
            assert "ForceCommand" in str(caught.value)
        finally:
            server.stop()

    @pytest.mark.parametrize("sessions", [1, 2])
    def test_a_server_with_few_sessions_is_respected(self, tmp_path: Path, sessions: int) -> None:
        server = Sshd(tmp_path / "sshd", {"MaxSessions": str(sessions)})
        try:
            with SshNode("small", server.settings()) as node:
                with ThreadPoolExecutor(6) as pool:
                    results = list(pool.map(lambda n: node.run("sleep 0.1; echo %s", n).stdout, range(6)))
                assert results == [f"{n}\n" for n in range(6)]
                mark = f"8{os.getpid() % 10000:04d}"
                with pytest.raises(CommandTimeout, match="killed with its children"):
                    node.run(f"sleep {mark}", timeout=1.0)
                assert eventually(lambda: not alive(f"sleep {mark}"))
                assert node.get("/proc/sys/kernel/ostype") == b"Linux\n"
        finally:
            server.stop()

    @pytest.mark.parametrize("shell", ["tcsh", "fish", "busybox", "zsh"])
    def test_other_login_shells(self, tmp_path: Path, shell: str) -> None:
        binary = shutil.which(shell)
        if binary is None:
            pytest.skip(f"{shell} is not on this machine")
        call = f"{binary} sh" if shell == "busybox" else binary
        server = Sshd(tmp_path / "sshd", {"ForceCommand": f'{call} -c "$SSH_ORIGINAL_COMMAND"'})
        try:
            with SshNode("odd", server.settings()) as node:
                text = "it's a \\ and !x\nand $HOME"
                assert node.run("printf %%s %s", text).stdout == text
        finally:
            server.stop()


class TestLogin:
    """Each failure is one line: node, address, what was tried, the next step."""

    @staticmethod
    def failure(settings: SshSettings, error: type[H20Error] = TransportError) -> str:
        began = time.monotonic()
        with pytest.raises(error) as caught:
            connect("node-x", settings)
        # a bound, not a benchmark: half a minute more than the limit would mean that it was not kept
        assert time.monotonic() - began < settings.connect_timeout + 30
        text = str(caught.value)
        assert text.startswith("node-x")
        assert "\n" not in text
        return text

    def test_unknown_host_key(self, sshd: Sshd, tmp_path: Path) -> None:
        text = self.failure(sshd.settings(known_hosts=tmp_path / "none"))
        assert f"root@127.0.0.1:{sshd.port}" in text
        shown = re.search(r"SHA256:\S+", text)
        assert shown
        listed = subprocess.run(["ssh-keygen", "-lf", str(sshd.host_key)], capture_output=True, text=True, check=True).stdout
        assert shown.group(0).rstrip(",") in listed
        command = text.rpartition("if it is right: ")[2]
        assert command.startswith("ssh-keyscan")
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)  # the next step that it names works
        connect("node-x", sshd.settings(known_hosts=tmp_path / "none")).close()

    def test_changed_host_key(self, sshd: Sshd, tmp_path: Path) -> None:
        other = keygen(tmp_path / "other")
        kind, blob, *_ = Path(f"{other}.pub").read_text().split()
        wrong = tmp_path / "known"
        wrong.write_text(f"# comment\n[127.0.0.1]:{sshd.port} {kind} {blob}\n")
        text = self.failure(sshd.settings(known_hosts=wrong))
        assert "not the known one" in text
        assert f"{wrong} line 2" in text
        assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in text

    def test_revoked_host_key(self, sshd: Sshd, tmp_path: Path) -> None:
        known = tmp_path / "known"
        known.write_text("@revoked " + sshd.known_hosts.read_text())
        assert "revoked" in self.failure(sshd.settings(known_hosts=known))

    def test_hashed_and_wildcard_names(self, sshd: Sshd, tmp_path: Path) -> None:
        hashed = tmp_path / "hashed"
        shutil.copy(sshd.known_hosts, hashed)
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hashed)], check=True, capture_output=True)
        assert "|1|" in hashed.read_text()
        connect("node-x", sshd.settings(known_hosts=hashed)).close()
        wild = tmp_path / "wild"
        wild.write_text(sshd.known_hosts.read_text().replace("[127.0.0.1]", "[127.0.*]"))
        connect("node-x", sshd.settings(known_hosts=wild)).close()
        assert not known_keys([wild], "127.0.0.1")

    def test_checking_off_is_explicit_and_reported(self, sshd: Sshd, tmp_path: Path) -> None:
        with SshNode("node-x", sshd.settings(known_hosts=tmp_path / "none", host_key_checking="off")) as node:
            assert node.run("true").ok
            assert "SHA256:" in node.host_key
        with pytest.raises(UsageError, match='accepted: "strict", "off"'):
            SshNode("node-x", sshd.settings(host_key_checking="maybe"))

    def test_wrong_key(self, sshd: Sshd, tmp_path: Path) -> None:
        stranger = keygen(tmp_path / "stranger")
        text = self.failure(sshd.settings(key_file=stranger))
        assert "log-in as 'root' was refused" in text
        assert str(stranger) in text
        assert "ssh-copy-id" in text

    def test_wrong_user(self, sshd: Sshd) -> None:
        assert "'nobody-here'" in self.failure(sshd.settings(user="nobody-here"))

    def test_passphrase(self, sshd: Sshd, tmp_path: Path) -> None:
        locked = keygen(tmp_path / "locked", passphrase="geheim7")
        assert f"ssh-add {locked}" in self.failure(sshd.settings(key_file=locked))
        pem = tmp_path / "locked.pem"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "geheim7", "-f", str(pem)], check=True)
        assert f"ssh-add {pem}" in self.failure(sshd.settings(key_file=pem))

    def test_a_key_that_is_none_or_not_there(self, sshd: Sshd, tmp_path: Path) -> None:
        junk = tmp_path / "junk"
        junk.write_text("not a key")
        junk.chmod(0o600)
        assert f"the key {junk} cannot be used" in self.failure(sshd.settings(key_file=junk))
        assert "is not there" in self.failure(sshd.settings(key_file=tmp_path / "missing"), UsageError)

    def test_connection_refused(self, sshd: Sshd) -> None:
        text = self.failure(sshd.settings(port=free_port()))
        assert "connection refused" in text
        assert "systemctl status ssh" in text

    def test_a_key_that_others_can_read(self, sshd: Sshd, tmp_path: Path) -> None:
        key = tmp_path / "id"
        key.write_bytes(sshd.key.read_bytes())
        key.chmod(0o644)
        assert f"(mode 0644) and is not used, as OpenSSH would not: chmod 600 {key}" in self.failure(sshd.settings(key_file=key))
        key.chmod(0o600)
        with SshNode("node-x", sshd.settings(key_file=key)) as node:
            assert node.run("true").ok

    def test_unknown_name(self, sshd: Sshd) -> None:
        text = self.failure(sshd.settings(host="node-a.invalid", connect_timeout=3.0))
        assert "node-a.invalid" in text
        assert "resolved" in text

    def test_no_answer(self, sshd: Sshd) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
            port = full.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            text = self.failure(sshd.settings(port=port, connect_timeout=2.0))
            for filler in fillers:
                filler.close()
        assert "no answer within 2 s" in text or "no complete SSH handshake within 2 s" in text

    def test_a_port_that_accepts_and_says_nothing(self, sshd: Sshd) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            text = self.failure(sshd.settings(port=mute.getsockname()[1], connect_timeout=2.0))
        assert "SSH" in text

    def test_a_port_where_something_else_answers(self, sshd: Sshd) -> None:
        class Http(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 30)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Http) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            text = self.failure(sshd.settings(port=server.server_address[1], connect_timeout=5.0))
            server.shutdown()
        assert "not an SSH server" in text

    def test_a_port_that_closes_at_once(self, sshd: Sshd) -> None:
        class Hang(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                return

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hang) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            text = self.failure(sshd.settings(port=server.server_address[1], connect_timeout=5.0))
            server.shutdown()
        assert "MaxStartups" in text or "handshake" in text

    def test_no_route(self) -> None:
        target = resolve("node-x", SshSettings("10.255.0.1", use_ssh_config=False, known_hosts="/nonexistent"))
        text = tcp_problem(OSError(errno.EHOSTUNREACH, "No route to host"), target)
        assert "no route to host" in text
        assert "ip route get 10.255.0.1" in text


class TestConfigAndJump:
    def test_everything_comes_from_the_ssh_config(self, sshd: Sshd, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text(
            f"Host h20-*\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User root\n  IdentityFile {sshd.key}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {sshd.known_hosts}\n"
        )
        with SshNode("node-x", SshSettings("h20-a", ssh_config=config, use_agent=False)) as node:
            assert node.run("echo %s", "via config").stdout == "via config\n"
            assert node.address == f"root@127.0.0.1:{sshd.port}"

    def test_jump_host_explicit_and_from_the_config(self, sshd: Sshd, tmp_path: Path) -> None:
        inner = Sshd(tmp_path / "inner")
        try:
            with SshNode("node-x", inner.settings(jump=sshd.settings())) as node:
                assert node.run("echo jumped").stdout == "jumped\n"
                assert "127.0.0.1" in node.run("echo $SSH_CONNECTION").stdout
            known = tmp_path / "known"
            known.write_text(sshd.known_hosts.read_text() + inner.known_hosts.read_text())
            config = tmp_path / "config"
            config.write_text(
                f"Host inside\n  HostName 127.0.0.1\n  Port {inner.port}\n  IdentityFile {inner.key}\n  ProxyJump root@gate\n"
                f"Host gate\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.key}\n"
                f"Host *\n  User root\n  UserKnownHostsFile {known}\n"
            )
            with SshNode("node-x", SshSettings("inside", ssh_config=config, use_agent=False)) as node:
                assert node.run("echo jumped").stdout == "jumped\n"
            with pytest.raises(TransportError, match=r"node-x, jump host .*refused"):
                connect("node-x", inner.settings(jump=sshd.settings(port=free_port())))
            with pytest.raises(TransportError, match=r"node-x .*jump host could not connect"):
                connect("node-x", replace(inner.settings(jump=sshd.settings()), port=free_port()))
        finally:
            inner.stop()

    def test_a_proxy_command(self, sshd: Sshd, tmp_path: Path) -> None:
        """It carries commands and files, and ends with the connection."""
        between = tmp_path / "between.py"
        between.write_text(
            "import os, select, socket, sys\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
            "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "while True:\n"
            "    for end in select.select([0, s], [], [])[0]:\n"
            "        data = os.read(0, 65536) if end == 0 else s.recv(65536)\n"
            "        if not data: sys.exit()\n"
            "        s.sendall(data) if end == 0 else os.write(1, data)\n"
        )
        config = tmp_path / "config"
        config.write_text(f"Host far\n  HostName 127.0.0.1\n  ProxyCommand {sys.executable} {between} %h %p\n")
        with SshNode("node-x", sshd.settings(host="far", use_ssh_config=True, ssh_config=config)) as node:
            assert node.run("echo %s", "through it").stdout == "through it\n"
            node.put(b"x" * 300_000, str(tmp_path / "file"))
            assert (tmp_path / "file").stat().st_size == 300_000
            pid = int((tmp_path / "pid").read_text())
            assert Path(f"/proc/{pid}").exists()
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())

    def test_a_certificate_of_the_user(self, sshd: Sshd, tmp_path: Path) -> None:
        """Named by ``CertificateFile``, or beside its key; the bare key is in nobody's authorized_keys."""
        authority, key = keygen(tmp_path / "authority"), keygen(tmp_path / "id")
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "root", str(key) + ".pub"]
        server = Sshd(tmp_path / "server", {"TrustedUserCAKeys": f"{authority}.pub"})
        try:
            plain = server.settings(key_file=key)
            with pytest.raises(TransportError, match="log-in as 'root' was refused"):
                connect("node-x", plain)
            subprocess.run(sign, check=True)
            connect("node-x", plain).close()
            named = (tmp_path / "id-cert.pub").rename(tmp_path / "elsewhere.pub")
            config = tmp_path / "config"
            config.write_text(f"Host *\n  CertificateFile {named}\n")
            with SshNode("node-x", replace(plain, use_ssh_config=True, ssh_config=config)) as node:
                node.connect()
                assert node._connection.opened is not None
                assert node._connection.opened.user_key.endswith(f"with certificate {named} (ssh-ed25519 {_fingerprint(key)})")
        finally:
            server.stop()

    def test_a_key_of_the_agent(self, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not shutil.which("ssh-agent"):
            pytest.skip("there is no ssh-agent on this machine")
        path = tmp_path / "agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
        try:
            assert eventually(path.exists)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
            monkeypatch.setenv("HOME", str(tmp_path))
            subprocess.run(["ssh-add", "-q", str(sshd.key)], check=True)
            with SshNode("node-x", sshd.settings(key_file=None, use_agent=True)) as node:
                assert node.run("true").ok
                assert node._connection.opened is not None
                assert "agent" in node._connection.opened.user_key
        finally:
            agent.kill()
            agent.wait()


class Echo(socketserver.BaseRequestHandler):
    """Answers after the client's half-close with what it got, so that a lost half-close shows."""

    def handle(self) -> None:
        got = b""
        while data := self.request.recv(65536):
            got += data
        self.request.sendall(b"%d:" % len(got) + got)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 2048
    allow_reuse_address = True


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def ask(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while part := sock.recv(65536):
            got += part
        return got


class TestForward:
    def test_half_close_and_large_bodies(self, node: SshNode, echo: int) -> None:
        address = node.forward("127.0.0.1", echo)
        assert address[0] == "127.0.0.1"
        assert node.forward("127.0.0.1", echo) == address
        assert ask(address, b"hello") == b"5:hello"
        data = os.urandom(5_000_000)
        assert ask(address, data) == b"5000000:" + data

    def test_many_connections_at_once(self, sshd: Sshd, echo: int) -> None:
        with SshNode("node-a", sshd.settings()) as node:
            address = node.forward("127.0.0.1", echo)
            threads = threading.active_count()
            sockets = [socket.create_connection(address, timeout=60) for _ in range(300)]
            for number, sock in enumerate(sockets):
                sock.sendall(b"%d" % number)
            for number, sock in enumerate(sockets):
                sock.shutdown(socket.SHUT_WR)
                text = b"%d" % number
                assert sock.recv(100) == b"%d:" % len(text) + text
                sock.close()
            # the openers (16), one reader per SSH connection, and the server's own threads are gone or few
            assert eventually(lambda: threading.active_count() < threads + 60)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address, timeout=5)

    def test_a_target_that_refuses_resets_the_connection(self, node: SshNode) -> None:
        port = free_port()
        address = node.forward("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            ask(address, b"x")

    def test_a_broken_connection_is_no_complete_answer_and_comes_back(self, sshd: Sshd) -> None:
        release = threading.Event()

        class Slow(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(b"half")
                release.wait(60)

        with SshNode("node-a", sshd.settings()) as node, EchoServer(("127.0.0.1", 0), Slow) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = node.forward("127.0.0.1", int(server.server_address[1]))
            with socket.create_connection(address, timeout=60) as sock:
                assert sock.recv(4) == b"half"
                sshd.cut()
                with pytest.raises(ConnectionResetError):
                    sock.recv(4)
            with socket.create_connection(address, timeout=60) as sock:
                assert sock.recv(4) == b"half"
                release.set()
                assert sock.recv(4) == b""
            server.shutdown()

    def test_tunnels_that_the_server_forbids(self, tmp_path: Path, echo: int) -> None:
        server = Sshd(tmp_path / "sshd", {"AllowTcpForwarding": "no"})
        try:
            with SshNode("node-a", server.settings()) as node, pytest.raises(TransportError, match="AllowTcpForwarding"):
                node.forward("127.0.0.1", echo)
        finally:
            server.stop()


class TestDockerSocket:
    """Why the daemon cannot be reached, without a daemon."""

    @pytest.mark.parametrize(
        ("prepare", "options", "words"),
        [
            ("true", {}, "systemctl status docker"),
            ("touch %s", {}, "not a socket"),
            ("python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' %s", {}, "nothing answers"),
        ],
    )
    def test_reasons(self, tmp_path: Path, prepare: str, options: dict[str, str], words: str) -> None:
        path = tmp_path / "docker.sock"
        subprocess.run(["sh", "-c", prepare.replace("%s", shlex.quote(str(path)))], check=True)
        server = Sshd(tmp_path / "sshd", options)
        try:
            with (
                SshNode("node-a", server.settings(docker_socket=str(path))) as node,
                pytest.raises(TransportError, match=words),
            ):
                node.containers.daemon()
        finally:
            server.stop()

    def test_forbidden(self, tmp_path: Path) -> None:
        path = tmp_path / "docker.sock"
        server = Sshd(tmp_path / "sshd", {"AllowStreamLocalForwarding": "no"})
        try:
            with (
                socket.socket(socket.AF_UNIX) as listener,
                SshNode("node-a", server.settings(docker_socket=str(path))) as node,
            ):
                listener.bind(str(path))
                listener.listen()
                with pytest.raises(TransportError, match="AllowStreamLocalForwarding yes"):
                    node.containers.daemon()
        finally:
            server.stop()


def test_a_local_node_is_made_from_local_settings() -> None:
    with_local = connect("here", LocalSettings())
    assert with_local.run("echo %s", "hi").stdout == "hi\n"
    with_local.close()
