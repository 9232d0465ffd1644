"""Settings, ssh configuration, known hosts and the daemon's refusals: the pure parts of getting in."""

from __future__ import annotations

import base64
import errno
from pathlib import Path

import pytest

from pytest_h20.core.errors import H20Error, TransportError, UsageError
from pytest_h20.nodes import connect
from pytest_h20.nodes.connect import REMEMBERED_S, SLOW_S, Connection, check_host_key, fingerprint, known_keys, tcp_problem
from pytest_h20.nodes.docker_api import container_info, gpu_request, hint
from pytest_h20.nodes.ssh_config import SshSettings, resolve

KEY = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + b"k" * 32).decode()
OTHER = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + b"o" * 32).decode()


def settings(**changes: object) -> SshSettings:
    return SshSettings(**{"host": "node-a", "use_ssh_config": False, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "name", "found"),
    [
        (f"node-a ssh-ed25519 {KEY}", "node-a", True),
        (f"node-a,10.0.0.1 ssh-ed25519 {KEY} comment", "10.0.0.1", True),
        (f"NODE-A ssh-ed25519 {KEY}", "node-a", True),
        (f"*.lab,!bad.lab ssh-ed25519 {KEY}", "x.lab", True),
        (f"*.lab,!bad.lab ssh-ed25519 {KEY}", "bad.lab", False),
        (f"[node-a]:2222 ssh-ed25519 {KEY}", "[node-a]:2222", True),
        (f"[node-a]:2222 ssh-ed25519 {KEY}", "node-a", False),
        (f"node-? ssh-ed25519 {KEY}", "node-b", True),
        (f"@cert-authority * ssh-ed25519 {KEY}", "node-a", False),
        (f"#node-a ssh-ed25519 {KEY}", "node-a", False),
        ("node-a ssh-ed25519", "node-a", False),
        (f"|1|broken ssh-ed25519 {KEY}", "node-a", False),
    ],
)
def test_known_hosts_lines(tmp_path: Path, line: str, name: str, found: bool) -> None:
    file = tmp_path / "known"
    file.write_text(f"\n{line}\n")
    keys = known_keys([tmp_path / "missing", file], name)
    assert bool(keys) is found
    if keys:
        assert (keys[0].line, keys[0].kind, keys[0].blob) == (2, "ssh-ed25519", KEY)


def test_host_key_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "known"
    target = resolve("node-x", settings(known_hosts=file, port=2222))
    with pytest.raises(TransportError, match=r"is not known.*ssh-keyscan -p 2222 -t ed25519 node-a >> "):
        check_host_key(target, "ssh-ed25519", base64.b64decode(KEY))
    file.write_text(f"[node-a]:2222 ssh-ed25519 {OTHER}\n")
    with pytest.raises(TransportError, match=r"is not the known one.*line 1.*ssh-keygen -R '\[node-a\]:2222'"):
        check_host_key(target, "ssh-ed25519", base64.b64decode(KEY))
    file.write_text(f"[node-a]:2222 ssh-ed25519 {OTHER}\n[node-a]:2222 ssh-ed25519 {KEY}\n")
    check_host_key(target, "ssh-ed25519", base64.b64decode(KEY))
    file.write_text(f"@revoked * ssh-ed25519 {KEY}\n[node-a]:2222 ssh-ed25519 {KEY}\n")
    with pytest.raises(TransportError, match="revoked"):
        check_host_key(target, "ssh-ed25519", base64.b64decode(KEY))


def test_fingerprint_is_that_of_ssh_keygen() -> None:
    # ssh-keygen -lf of this public key (OpenSSH 9.2)
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"  # GitHub's published host key
    assert fingerprint(base64.b64decode(blob)) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


def test_explicit_settings_win_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host node-a\n  HostName 10.0.0.9\n  Port 2200\n  User ops\n  HostKeyAlias alias\n  IdentitiesOnly yes\n")
    target = resolve("n", settings(use_ssh_config=True, ssh_config=config))
    assert (target.host, target.port, target.user, target.host_key_name, target.agent) == (
        "10.0.0.9",
        2200,
        "ops",
        "alias",
        None,
    )
    target = resolve("n", settings(use_ssh_config=True, ssh_config=config, port=22, user="root"))
    assert (target.port, target.user) == (22, "root")
    assert target.address == "root@10.0.0.9:22"


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("gate", [("gate", None, None)]),
        ("ops@gate:2222", [("gate", 2222, "ops")]),
        ("[fd00::1]:22", [("fd00::1", 22, None)]),
        ("one,two", [("two", None, None), ("one", None, None)]),
        ("none", []),
    ],
)
def test_proxy_jump(tmp_path: Path, value: str, hops: list[tuple[str, int | None, str | None]]) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host node-a\n  ProxyJump {value}\n")
    jump = resolve("n", settings(use_ssh_config=True, ssh_config=config)).jump
    found = []
    while jump:
        found.append((jump.host, jump.port, jump.user))
        jump = jump.jump
    assert found == hops


def test_a_bad_configuration_is_a_usage_error(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host node-a\n  ProxyJump gate:x\n")
    with pytest.raises(UsageError, match="ProxyJump"):
        resolve("n", settings(use_ssh_config=True, ssh_config=config))
    config.write_text("what is this\x00\nHost\n")
    with pytest.raises(UsageError, match="cannot be used"):
        resolve("n", settings(use_ssh_config=True, ssh_config=config))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "x"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "set a jump host"),
        (TimeoutError(), "no answer within 15 s"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_tcp_problems_name_the_next_step(error: OSError, words: str) -> None:
    assert words in tcp_problem(error, resolve("n", settings()))


@pytest.mark.parametrize(
    ("gpus", "request_"),
    [
        ("all", {"count": -1}),
        ("4", {"count": 4}),
        ("device=0,2", {"device_ids": ["0", "2"]}),
        ('"device=1"', {"device_ids": ["1"]}),
    ],
)
def test_gpu_requests(gpus: str, request_: dict[str, object]) -> None:
    assert gpu_request(gpus) == {**request_, "capabilities": [["gpu"]]}


@pytest.mark.parametrize("gpus", ["", "0", "none", "device=", "-1"])
def test_wrong_gpu_requests(gpus: str) -> None:
    with pytest.raises(H20Error, match="accepted"):
        gpu_request(gpus)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-container-toolkit"),
        ("nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown", "reboot"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "nvidia-smi"),
        ('invalid mount config for type "bind": bind source path does not exist: /ssd1', "mount's source"),
        ("unknown or invalid runtime name: nvidia", "docker info"),
        ("write /x: no space left on device", "df -h"),
        ("something never seen", ""),
    ],
)
def test_hints(words: str, advice: str) -> None:
    assert advice in hint(words)
    assert bool(hint(words)) is bool(advice)


def test_container_info_of_an_inspection() -> None:
    data = {
        "Id": "abc",
        "Name": "/engine",
        "Created": "2026-01-01T00:00:00.1Z",
        "Config": {"Image": "vllm:1", "Labels": None},
        "State": {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
    }
    info = container_info(data)
    assert (info.name, info.exit_code, info.oom_killed, info.running, info.labels) == ("engine", 137, True, False, {})
    data["State"] = {"Status": "running", "ExitCode": 0}
    assert container_info(data).exit_code is None


@pytest.mark.parametrize(("took", "asked"), [(SLOW_S, 2), (0.0, 4)])
def test_a_node_that_let_us_wait_in_vain_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch, took: float, asked: int) -> None:
    now, attempts = [1000.0], [0]

    def refuse(*_: object) -> None:
        attempts[0] += 1
        now[0] += took
        raise TransportError("node01: no answer")

    monkeypatch.setattr(connect, "open_transport", refuse)
    monkeypatch.setattr("pytest_h20.nodes.connect.time.monotonic", lambda: now[0])
    connection = Connection("node01", settings(use_ssh_config=False))
    for wait in (0.0, 1.0, 1.0, REMEMBERED_S):
        now[0] += wait
        with pytest.raises(TransportError, match="node01: no answer"):
            connection.transport()
    assert attempts == [asked]
