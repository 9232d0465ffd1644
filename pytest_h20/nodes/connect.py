"""From settings to a live SSH connection: configuration, host key, log-in, jump host. Every way to fail is one clear line.

``connect`` is the entry point. paramiko is imported only when something connects.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fnmatch
import hashlib
import hmac
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_h20.core.errors import TransportError, UsageError
from pytest_h20.nodes.shell import tail
from pytest_h20.nodes.ssh_config import DOCKER_SOCKET, SshSettings, SshTarget, resolve

if TYPE_CHECKING:
    import paramiko

    from pytest_h20.nodes.base import Node

LOG_CHANNEL = "pytest_h20.ssh"
# paramiko logs as errors what we handle (a refused channel) or say better; set the level lower to see it
logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class LocalSettings:
    """A node that is this very machine."""

    docker_socket: str = DOCKER_SOCKET


def connect(name: str, settings: SshSettings | LocalSettings) -> Node:
    """Connect to a node of the inventory. Raises ``TransportError`` in one line, within ``connect_timeout``, when it cannot.

    ``name`` is the node's name in the inventory: every error begins with it.
    """
    if isinstance(settings, LocalSettings):
        from pytest_h20.nodes.local import LocalNode

        return LocalNode(name, docker_socket=settings.docker_socket)
    from pytest_h20.nodes.ssh import SshNode

    node = SshNode(name, settings)
    node.connect()
    return node


# --- host keys -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file that speaks of the host."""

    file: Path
    line: int
    kind: str
    blob: str
    revoked: bool = False


def known_keys(files: Sequence[Path], name: str, *, authorities: bool = False) -> list[KnownKey]:
    """Every key the files hold for a host: plain names, wildcards, negation, hashed names, ``@revoked`` (sshd(8)).

    ``authorities``: instead the keys that may sign its host certificate (``@cert-authority``).
    """
    found: list[KnownKey] = []
    for path in files:
        with contextlib.suppress(OSError):
            for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
                fields = line.split()
                marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
                if len(fields) < 3 or fields[0].startswith("#") or (marker == "@cert-authority") is not authorities:
                    continue
                if _names_match(fields[0], name):
                    found.append(KnownKey(path, number, fields[1], fields[2], marker == "@revoked"))
    return found


def _names_match(names: str, wanted: str) -> bool:
    if names.startswith("|1|"):
        try:
            _, _, salt, digest = names.split("|")
            expected = base64.b64decode(digest)
            return hmac.compare_digest(hmac.new(base64.b64decode(salt), wanted.encode(), hashlib.sha1).digest(), expected)
        except ValueError:
            return False
    hit = False
    for pattern in names.lower().split(","):
        negated = pattern.startswith("!")
        literal = pattern.lstrip("!").replace("[", "[[]")  # "[host]:port" is no character class
        if fnmatch.fnmatchcase(wanted.lower(), literal):
            if negated:
                return False
            hit = True
    return hit


def fingerprint(key: bytes) -> str:
    """``SHA256:...`` as ``ssh-keygen -l`` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def check_host_key(target: SshTarget, kind: str, key: bytes) -> None:
    """Compare the key the server showed with the known ones. Raises ``TransportError`` with the way out."""
    known = known_keys(target.known_hosts, target.host_key_name)
    blob = base64.b64encode(key).decode()
    shown = f"{kind} {fingerprint(key)}"
    if any(k.revoked and k.blob == blob for k in known):
        raise target.error(f"the server shows a host key that known_hosts marks as revoked ({shown}): do not use this host")
    valid = [k for k in known if not k.revoked]
    if any(k.blob == blob for k in valid):
        return
    first = shlex.quote(str(target.known_hosts[0]))
    if target.direct:
        port = f"-p {target.port} " if target.port != 22 else ""
        scan = f"ssh-keyscan {port}-t {kind.removeprefix('ssh-')} {shlex.quote(target.host)} >> {first}"
    else:  # only ssh knows the way, or the name under which the key is kept
        scan = f"{target.command('ssh -o StrictHostKeyChecking=ask', 'true')}, and answer `yes`"
    console = "ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub"
    same = [k for k in valid if k.kind == kind] or valid
    if same:
        old = same[0]
        with contextlib.suppress(ValueError):
            raise target.error(
                f"the host key is not the known one: the server shows {shown}, {old.file} line {old.line} has "
                f"{old.kind} {fingerprint(base64.b64decode(old.blob))}. Reinstalled, or someone is in between: compare with "
                f"`{console}` on the node's console; if it is right: "
                f"ssh-keygen -R '{target.host_key_name}' -f {shlex.quote(str(old.file))}; {scan}"
            )
    files = ", ".join(str(f) for f in target.known_hosts)
    raise target.error(
        f"the host key is not known: the server shows {shown}, and {files} has no key for {target.host_key_name!r}. "
        f"Compare it with `{console}` on the node's console; if it is right: {scan}"
    )


def _authorities(target: SshTarget) -> list[KnownKey]:
    """Who may sign host keys of this host: ``@cert-authority`` lines for its name, with the port or (as OpenSSH) without it."""
    names = dict.fromkeys((target.host_key_name, target.certified_name))
    return [k for name in names for k in known_keys(target.known_hosts, name, authorities=True)]


def check_host(target: SshTarget, kind: str, key: bytes, certificate: bytes) -> None:
    """As ``check_host_key`` for a server that may have shown a certificate: a good one is enough; else its bare key must be known."""
    if not certificate:
        check_host_key(target, kind, key)
        return
    problem = certificate_problem(target, key, certificate)
    if not problem:
        return
    try:
        check_host_key(target, kind, key)
    except TransportError as error:
        raise TransportError(f"{error}. Its certificate is not accepted either: {problem}") from None


def _wire(public: Any) -> bytes:
    """A public key of ``cryptography`` as SSH sends it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return base64.b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def certificate_problem(target: SshTarget, key: bytes, blob: bytes, now: float | None = None) -> str:
    """Why a host certificate (PROTOCOL.certkeys of OpenSSH) does not vouch for this host; "" = it does.

    ``key``: the bare host key, whose signature over the key exchange was verified already.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import ssh as formats

    length = int.from_bytes(blob[:4], "big")
    try:
        certificate = formats.load_ssh_public_identity(blob[4 : 4 + length] + b" " + base64.b64encode(blob))
        if not isinstance(certificate, formats.SSHCertificate):
            return "it is no certificate"
        certificate.verify_cert_signature()

        signer, own = _wire(certificate.signature_key()), _wire(certificate.public_key())
    except InvalidSignature:
        return "its signature is wrong"
    except Exception as error:  # cryptography raises a dozen types here, all meaning "not this certificate"
        return f"it cannot be read ({type(error).__name__}: {error})"
    authority = fingerprint(signer)
    known = [k for name in (target.host_key_name, target.certified_name) for k in known_keys(target.known_hosts, name)]
    revoked = {k.blob for k in known if k.revoked}
    if {base64.b64encode(b).decode() for b in (signer, own, blob)} & revoked:
        return "known_hosts marks it, its key or its authority as revoked"
    if own != key:
        return "it is about another key"
    if base64.b64encode(signer).decode() not in {k.blob for k in _authorities(target)}:
        return f"the authority that signed it ({authority}) is in no @cert-authority line for {target.host_key_name!r}"
    if certificate.type is not formats.SSHCertificateType.HOST:
        return "it is a user's certificate, not a host's"
    if certificate.critical_options:
        return f"it has critical options that are not known ({b', '.join(certificate.critical_options).decode('utf-8', 'replace')})"
    moment = time.time() if now is None else now
    if not certificate.valid_after <= moment < certificate.valid_before:
        return "it is not valid now (not yet, or no more): look at its dates with `ssh-keygen -Lf`, and at this machine's clock"
    principals = [p.decode("utf-8", "replace") for p in certificate.valid_principals]
    name = target.certified_name.lower()
    if not any(fnmatch.fnmatchcase(name, p.lower().replace("[", "[[]")) for p in principals):
        return f"it is for {', '.join(principals) or 'no name at all'}, not for {target.certified_name!r}: use that name as `address`"
    return ""


# --- connecting ----------------------------------------------------------------------------------------------------------


@dataclass
class Opened:
    """A live, logged-in connection and what is known about it."""

    transport: paramiko.Transport
    host_key: str
    user_key: str


@dataclass
class _Key:
    pkey: paramiko.PKey
    origin: str


@dataclass
class _Tried:
    """What the log-in went through, for the error."""

    keys: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def open_transport(target: SshTarget, via: paramiko.Transport | None = None) -> Opened:
    """Connect and log in, through ``via`` if there is a jump host, all within ``target.timeout`` seconds.

    Raises ``TransportError``: one line with the node's name, its address, what was tried and what to do next.
    """
    deadline = time.monotonic() + target.timeout
    opened = _open_once(target, via, deadline)
    if opened is None and time.monotonic() + 1.0 < deadline:
        time.sleep(0.5)  # sshd drops connections at random when more than MaxStartups are logging in: once more
        opened = _open_once(target, via, deadline)
    if opened is None:
        raise target.error(
            "the port accepts connections and closes them before SSH's greeting: sshd is overloaded (MaxStartups), "
            "refuses this address (hosts.deny, fail2ban), or it is not sshd. Next: `journalctl -u ssh` on the node"
        )
    return opened


def _open_once(target: SshTarget, via: paramiko.Transport | None, deadline: float) -> Opened | None:
    import paramiko

    from pytest_h20.nodes.channels import Transport

    sock = _through(target, via, deadline) if via is not None else (_run_proxy if target.proxy else _dial)(target, deadline)
    transport: Transport | None = None
    opened: Opened | None = None
    try:
        greeting = _greeting(sock, deadline)
        if isinstance(sock, _ProxySocket) and not greeting:
            raise target.error(sock.problem())
        if greeting == b"":
            return None
        transport = Transport(sock)
        transport.set_log_channel(LOG_CHANNEL)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = _left(deadline)
        known = known_keys(target.known_hosts, target.host_key_name)
        authorities = target.verify and bool(_authorities(target))
        transport.prefer_host_keys([k.kind for k in known if not k.revoked], certificates=authorities)
        done = threading.Event()
        transport.start_client(event=done)
        while not done.wait(0.05) and transport.is_active() and time.monotonic() < deadline:
            pass
        if not done.is_set() or not transport.is_active():
            problem = transport.get_exception()
            mute = not greeting or b"SSH-" in greeting
            if (mute and isinstance(problem, EOFError)) or (mute and transport.remote_version == "" and "banner" in str(problem)):
                return None
            raise _handshake_error(target, problem, greeting or b"")
        key = transport.get_remote_server_key()
        if target.verify:
            certificate = key.public_blob.key_blob if key.public_blob else b""
            check_host(target, key.get_name(), key.asbytes(), certificate)
        user_key = _log_in(target, transport, deadline)
        if target.keepalive > 0:
            transport.set_keepalive(max(1, round(target.keepalive)))
        opened = Opened(transport, f"{key.get_name()} {fingerprint(key.asbytes())}", user_key)
        return opened
    except paramiko.SSHException as error:
        raise target.error(f"the SSH handshake failed: {error}") from error
    finally:
        if opened is None:
            if transport is not None:
                transport.close()
            sock.close()


def _greeting(sock: socket.socket | paramiko.Channel, deadline: float) -> bytes | None:
    """The server's first bytes, left unread: b"" = it closed at once, None = not known (silence, or through a jump host)."""
    if not isinstance(sock, socket.socket):
        return None
    try:
        sock.settimeout(_left(deadline))
        return sock.recv(200, socket.MSG_PEEK)
    except TimeoutError:
        return None
    except OSError:
        return b""


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _handshake_error(target: SshTarget, problem: Exception | None, greeting: bytes) -> TransportError:
    import paramiko

    if isinstance(problem, paramiko.ssh_exception.IncompatiblePeer):
        return target.error(f"no cipher or key exchange in common with this sshd: {problem}. Next: update openssh-server there")
    text = str(problem or "")
    if greeting and b"SSH-" not in greeting:
        said = greeting.split(b"\n")[0].decode("utf-8", "replace").strip()[:80]
        return target.error(f"what answers on this port is not an SSH server; it says {said!r}. Is the port right?")
    if problem is None:
        return target.error(
            f"connected, but no complete SSH handshake within {target.timeout:g} s. Is it sshd, and is the node overloaded?"
        )
    return target.error(f"the SSH handshake failed: {text or type(problem).__name__}")


def _addresses(target: SshTarget, deadline: float) -> list[tuple[Any, ...]]:
    """``getaddrinfo`` with a deadline: a dead resolver would hold it for minutes."""
    result: list[Any] = []

    def ask() -> None:
        try:
            result.append(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            result.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="h20-resolve")
    thread.start()
    thread.join(_left(deadline))
    advice = "Next: check the address, /etc/hosts and DNS"
    if not result:
        raise target.error(f"the name {target.host!r} was not resolved within {target.timeout:g} s. {advice}")
    if isinstance(result[0], Exception):
        raise target.error(f"the name {target.host!r} cannot be resolved ({result[0]}). {advice}") from result[0]
    return list(result[0])


def _dial(target: SshTarget, deadline: float) -> socket.socket:
    problem: OSError | None = None
    for family, kind, protocol, _, address in _addresses(target, deadline):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
            _keep_alive(sock, target.keepalive)
            return sock
        except OSError as error:
            problem = error
            sock.close()
    raise target.error(tcp_problem(problem, target)) from problem


class _ProxySocket(socket.socket):
    """Our end of a ``ProxyCommand``: a real socket, and the process that ends with it."""

    process: subprocess.Popen[bytes]
    command: str
    said: IO[bytes]

    def problem(self) -> str:
        """Why no SSH server speaks through it, and what to do next."""
        self.said.seek(0)
        words = tail(self.said.read()) or "nothing"
        state = self.process.poll()
        ended = "it still runs" if state is None else f"it ended with status {state}"
        return f"no SSH server answers through the ProxyCommand `{self.command}` ({ended}; it said: {words}). Next: run it by hand"

    def close(self) -> None:
        """End the process with the connection, as ssh does; one that does not want to is killed. May be called twice."""
        super().close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
            try:
                self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.said.close()


def _run_proxy(target: SshTarget, deadline: float) -> _ProxySocket:
    """Start the ``ProxyCommand``; a pair of sockets is its standard input and output, so that deadlines hold as with TCP."""
    ours, theirs = socket.socketpair()
    sock = _ProxySocket(fileno=ours.detach())
    sock.command, sock.said = str(target.proxy), tempfile.TemporaryFile()  # noqa: SIM115 (closed with the socket)
    with theirs:
        # a session of its own: Ctrl-C ends the run, which needs the connection to take down what it started
        argv, end = ["/bin/sh", "-c", f"exec {target.proxy}"], theirs.fileno()
        sock.process = subprocess.Popen(argv, stdin=end, stdout=end, stderr=sock.said, start_new_session=True)
    sock.settimeout(_left(deadline))
    return sock


def tcp_problem(error: OSError | None, target: SshTarget) -> str:
    """What a failed TCP connection means and what to do next."""
    if error is None:
        return "the name has no address"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return (
            f"no answer within {target.timeout:g} s: the machine is down, the address is wrong, or a firewall drops port "
            f"{target.port}. Next: `ping {shlex.quote(target.host)}`, then its console"
        )
    if error.errno == errno.ECONNREFUSED:
        return f"connection refused: nothing listens on port {target.port} there. Next: `systemctl status ssh`, or mend `port`"
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"no route to host ({error.strerror}). Next: `ip route get {shlex.quote(target.host)}`, or set a jump host (`jump`)"
    return f"cannot connect: {error}"


def _keep_alive(sock: socket.socket, seconds: float) -> None:
    """A peer that vanished is noticed after about four missed keep-alives, not after TCP's quarter of an hour."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if seconds > 0 and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(max(5.0, 4 * seconds) * 1000))


def _through(target: SshTarget, via: paramiko.Transport, deadline: float) -> paramiko.Channel:
    import paramiko

    try:
        return via.open_channel("direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=_left(deadline))
    except paramiko.ChannelException as error:
        reason = "does not allow it (AllowTcpForwarding)" if error.code == 1 else f"could not connect ({error.text})"
        raise target.error(
            f"the jump host {reason}. Next: try `nc -z {shlex.quote(target.host)} {target.port}` on the jump host"
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise target.error(f"the connection through the jump host failed: {error}") from error


def _log_in(target: SshTarget, transport: paramiko.Transport, deadline: float) -> str:
    import paramiko

    tried = _Tried()
    allowed: list[str] = []
    for key in _keys(target, tried):
        shown = f"{key.origin} ({key.pkey.get_name()} {fingerprint(key.pkey.asbytes())})"
        transport.auth_timeout = _left(deadline)
        try:
            more = transport.auth_publickey(target.user, key.pkey)
        except paramiko.BadAuthenticationType as error:
            allowed = list(error.allowed_types)
            break
        except paramiko.AuthenticationException as error:
            tried.keys.append(shown)
            if not transport.is_active() or "imeout" in str(error):
                tried.unusable.append(f"the server ended the log-in ({error}): too many keys tried? (MaxAuthTries, agent)")
                break
            continue
        except (paramiko.SSHException, EOFError, OSError) as error:
            tried.keys.append(shown)
            tried.unusable.append(f"the server ended the log-in: {error or 'connection closed'}")
            break
        if not more:
            return shown
        tried.keys.append(f"{shown}: accepted, but the server also wants {', '.join(more)}, which is not supported")
        break
    raise target.error(_refused(target, tried, allowed))


def _refused(target: SshTarget, tried: _Tried, allowed: Sequence[str]) -> str:
    parts = [f"log-in as {target.user!r} was refused"]
    if allowed:
        parts.append(f"the server does not take keys, only {', '.join(allowed)}")
    parts.append("tried " + "; ".join(tried.keys) if tried.keys else "there was no usable key to try")
    parts += tried.unusable
    if tried.unusable and not tried.keys:
        return ": ".join(parts)
    copy = target.command(f"ssh-copy-id -i {shlex.quote(str(next(iter(target.key_files), 'KEY')))}.pub")
    return f"{': '.join(parts)}. Next: `{copy}`, or set the right `user` and `key`"


def _keys(target: SshTarget, tried: _Tried) -> Iterator[_Key]:
    """The keys in the order in which they are tried: files first, then the agent's; each only once, with a certificate before without."""
    import paramiko

    from pytest_h20.nodes.channels import Agent

    certificates = _certificates(target, tried)
    seen: set[bytes] = set()

    def offered(pkey: paramiko.PKey, origin: str) -> Iterator[_Key]:
        seen.add(pkey.asbytes())
        for path, certified in certificates:
            if certified == pkey.asbytes():
                pkey.load_certificate(str(path))
                yield _Key(pkey, f"{origin} with certificate {path}")
        pkey.public_blob = None
        yield _Key(pkey, origin)

    for path in target.key_files:
        if public := _public(path):
            tried.unusable.append(public)
            continue
        if (mode := _open_to_others(path)) is not None:
            tried.unusable.append(
                f"the key {path} can be read by other users (mode {mode:04o}) and is not used, as OpenSSH would not: chmod 600 {path}"
            )
            continue
        try:
            pkey = paramiko.PKey.from_path(path)
        except Exception as error:  # cryptography and paramiko raise a dozen types here, all meaning "not this file"
            tried.unusable.append(_unusable(path, error))
            continue
        yield from offered(pkey, f"key {path}")
    if not target.agent:
        return
    try:
        agent = Agent(target.agent)
    except (paramiko.SSHException, OSError) as error:
        tried.unusable.append(f"the SSH agent does not answer: {error}")
        return
    try:
        for agent_key in agent.get_keys():
            if agent_key.asbytes() not in seen:
                yield from offered(agent_key, "key from the agent")
    finally:
        agent.close()


def _certificates(target: SshTarget, tried: _Tried) -> list[tuple[Path, bytes]]:
    """Certificate files, named in the configuration or beside a key, and the public key that each is about."""
    from cryptography.hazmat.primitives.serialization import ssh as formats

    found = []
    for path in dict.fromkeys((*target.certificates, *(Path(f"{key}-cert.pub") for key in target.key_files))):
        try:
            certificate = formats.load_ssh_public_identity(path.read_bytes())
            if isinstance(certificate, formats.SSHCertificate):
                found.append((path, _wire(certificate.public_key())))
        except FileNotFoundError:
            continue
        except Exception as error:  # as with keys: many types, one meaning
            tried.unusable.append(f"the certificate {path} cannot be used: {error or type(error).__name__}")
    return found


def _open_to_others(path: Path) -> int | None:
    """The mode of a private key of ours that group or others may use; None when it is closed, or somebody else's (OpenSSH's rule)."""
    with contextlib.suppress(OSError):
        info = path.stat()
        if info.st_uid == os.getuid() and info.st_mode & 0o077:
            return info.st_mode & 0o777
    return None


def _public(path: Path) -> str:
    """Why a key file is none, where it is the public half of one; else empty."""
    try:
        begins = path.read_text("utf-8", "replace")[:40]
    except OSError:
        return ""
    is_public = re.match(r"(ssh-|ecdsa-|sk-)\S+ AAAA", begins) is not None
    return f"{path} is a public key: the private one is wanted, {path.with_suffix('')} most likely" if is_public else ""


def _unusable(path: Path, error: Exception) -> str:
    text = str(error).lower()
    if "encrypted" in text or "password" in text or "passphrase" in text:
        return f"the key {path} is protected by a passphrase: run `ssh-add {path}` first, its agent is used"
    if isinstance(error, PermissionError):
        return f"the key {path} may not be read by this user"
    return f"the key {path} cannot be used: {error or type(error).__name__} (OpenSSH or PEM private key wanted)"


def refuse_unusable(label: str, settings: SshSettings) -> None:
    """Raises ``UsageError`` for what no connection can be made with, before any is tried: a ``key`` that is not there, that others
    can read or that is no key, and all that `resolve` refuses, of its jump hosts too. A key with a passphrase may be the agent's."""
    target = resolve(label, settings)
    if target.jump is not None:
        refuse_unusable(f"{label}, jump host", target.jump)
    import paramiko

    for path in target.key_files if target.explicit_keys else ():
        if public := _public(path):
            raise UsageError(f"{label}: {public}")
        if (mode := _open_to_others(path)) is not None:
            open_to_others = f"the key {path} can be read by other users (mode {mode:04o})"
            raise UsageError(f"{label}: {open_to_others}, and OpenSSH refuses it: chmod 600 {path}")
        try:
            paramiko.PKey.from_path(path)
        except Exception as error:  # cryptography and paramiko raise a dozen types here, all meaning "not this file"
            reason = _unusable(path, error)
            if "passphrase" not in reason:
                raise UsageError(f"{label}: {reason}; name the private key in `key`") from None


# --- a connection that comes back ----------------------------------------------------------------------------------------


SLOW_S, REMEMBERED_S = 2.0, 300.0
"""A first connection that failed after so long is not tried again for so long: everything that wants the node would wait as long anew."""


class Connection:
    """One SSH connection that is made on first use and made again after it broke. Thread-safe."""

    def __init__(self, label: str, settings: SshSettings) -> None:
        self.target = resolve(label, settings)
        self._jump = Connection(f"{label}, jump host", self.target.jump) if self.target.jump else None
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._retired: list[paramiko.Transport] = []
        self._closed = False
        self._silent: tuple[float, TransportError] | None = None  # until when, and what the first connection failed with

    def transport(self) -> paramiko.Transport:
        """The live transport; connects when there is none. Raises ``TransportError``."""
        with self._lock:
            if self._closed:
                raise self.target.error("the connection was closed by this program")
            if self._opened is None or not self._opened.transport.is_active():
                self._opened = self._first() if self._opened is None and not self._retired else self.another()
            return self._opened.transport

    def _first(self) -> Opened:
        began = time.monotonic()
        if self._silent is not None and began < self._silent[0]:
            raise TransportError(str(self._silent[1]))
        try:
            return self.another()
        except TransportError as error:
            if time.monotonic() - began >= SLOW_S:
                self._silent = (time.monotonic() + REMEMBERED_S, error)
            raise

    def another(self, timeout: float | None = None) -> Opened:
        """A further connection of its own, which the caller closes; within ``timeout`` s where the settings allow more."""
        target = self.target if timeout is None else replace(self.target, timeout=min(timeout, self.target.timeout))
        return open_transport(target, self._jump.transport() if self._jump else None)

    def sibling(self) -> Connection:
        """A second connection to the same target that shares the jump host."""
        twin = object.__new__(Connection)
        twin.target, twin._jump = self.target, self._jump
        twin._lock, twin._opened, twin._retired, twin._closed, twin._silent = threading.Lock(), None, [], False, None
        return twin

    @property
    def opened(self) -> Opened | None:
        """What is known of the current connection."""
        return self._opened

    def retire(self, transport: paramiko.Transport) -> None:
        """Do not use this transport for anything new; what runs on it goes on until ``close``."""
        with self._lock:
            if self._opened is not None and self._opened.transport is transport:
                self._retired.append(transport)
                self._opened = None

    def close(self, with_jump: bool = True) -> None:
        """End it for good. May be called twice."""
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._retired.append(self._opened.transport)
            retired, self._retired = self._retired, []
        for transport in retired:
            transport.close()
        if with_jump and self._jump:
            self._jump.close()


def ssh_errors() -> tuple[type[Exception], ...]:
    """What paramiko raises when a connection breaks under us."""
    import paramiko

    return (paramiko.SSHException, EOFError, OSError)
