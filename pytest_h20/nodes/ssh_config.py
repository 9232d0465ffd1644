"""What OpenSSH would do to reach a host: settings and ``~/.ssh/config`` made one. Nothing is reached here.

Where there is an ``ssh``, it is asked (``ssh -G HOST``, ssh(1)): ``Include``, ``Match``, ``ProxyCommand`` and certificates then mean
what they mean on the user's command line. Without one, paramiko reads the file: it follows no ``Include``, and errors say so.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pytest_h20.core.errors import TransportError, UsageError

DOCKER_SOCKET = "/var/run/docker.sock"
DEFAULT_CONFIG = "~/.ssh/config"
_ASK_S = 20.0
"""For ``ssh -G``: a ``Match exec`` of the user's may ask a network."""

Values = Mapping[str, Sequence[str]]
"""Keyword in small letters to its values, as the configuration gives them to one host."""


@dataclass(frozen=True)
class SshSettings:
    """How to reach one machine over SSH.

    What is ``None`` comes from ``~/.ssh/config`` (when ``use_ssh_config``) or from OpenSSH's default. Times in seconds.
    ``host_key_checking="off"`` accepts any host key: an explicit choice that reports name.
    ``max_sessions``: sshd's ``MaxSessions`` (10 by default, sshd_config(5)); more commands than that wait for their turn.
    """

    host: str
    port: int | None = None
    user: str | None = None
    key_file: str | os.PathLike[str] | None = None
    jump: SshSettings | None = None
    known_hosts: str | os.PathLike[str] | None = None
    host_key_checking: Literal["strict", "off"] = "strict"
    use_agent: bool = True
    use_ssh_config: bool = True
    connect_timeout: float = 15.0
    keepalive_s: float = 15.0
    ssh_config: str | os.PathLike[str] = DEFAULT_CONFIG
    docker_socket: str = DOCKER_SOCKET
    max_sessions: int = 10
    sudo: bool = False
    """Commands find ``$H20_SUDO`` set, and the container daemon is reached with ``sudo -n`` where its socket is closed to the login."""


@dataclass(frozen=True)
class SshTarget:
    """What will really be tried. ``options`` and ``destination``: the words with which ``ssh`` itself reaches the same machine."""

    label: str
    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    explicit_keys: bool
    certificates: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    host_key_name: str
    certified_name: str
    """The name that a host certificate must hold: without the port."""
    verify: bool
    agent: str | None
    """The socket of the agent whose keys are offered."""
    timeout: float
    keepalive: float
    jump: SshSettings | None
    proxy: str | None
    """A shell command that speaks SSH with the machine on its standard input and output (``ProxyCommand``)."""
    options: tuple[str, ...]
    destination: str
    note: str = ""
    """What of the configuration could not be read; told with every error."""

    @property
    def address(self) -> str:
        """``user@host:port`` as errors show it."""
        return f"{self.user}@{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def direct(self) -> bool:
        """Whether it is dialled at its address and known under it: what ``ssh-keyscan`` and ``nc`` can do too."""
        return self.jump is None and self.proxy is None and self.certified_name == self.host

    def command(self, program: str, *more: str) -> str:
        """A command line for a person: ``ssh`` or ``ssh-copy-id`` to this machine with what the run uses, quoted."""
        return shlex.join([*program.split(), *self.options, self.destination, *more])

    def error(self, text: str) -> TransportError:
        """An error that begins with the node's name and address."""
        return TransportError(f"{self.label} ({self.address}): {text}{f'. {self.note}' if self.note else ''}")


def own_name() -> str:
    """Who runs this, by name. Raises ``UsageError`` where the system knows none, as in a container that runs with somebody's uid."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError(
            f"uid {os.getuid()} has no name on this machine, and ssh refuses to run for it: in a container, build its image for your uid "
            f"(docker build --build-arg UID={os.getuid()} --build-arg GID={os.getgid()}); elsewhere, add the user to /etc/passwd"
        ) from None


def resolve(label: str, settings: SshSettings) -> SshTarget:
    """Join the settings with ``~/.ssh/config``: explicit settings win. Raises ``UsageError`` for what cannot be used."""
    _refuse_words(label, settings)
    if settings.host_key_checking not in ("strict", "off"):
        raise UsageError(f'{label}: host_key_checking is {settings.host_key_checking!r}; accepted: "strict", "off"')
    values, note = _values(label, settings) if settings.use_ssh_config else ({}, "")

    def one(keyword: str) -> str | None:
        value = next(iter(values.get(keyword, ())), "none")
        return None if value.lower() == "none" else value

    host = one("hostname") or settings.host
    port = settings.port or int(one("port") or 22)
    user = settings.user or one("user") or own_name()
    alias = one("hostkeyalias")
    _refuse_words(label, replace(settings, host=host, user=user))
    tokens = {"%": "%", "h": host, "n": settings.host, "p": str(port), "r": user, "k": alias or settings.host}
    jump = settings.jump
    if jump is None and (hops := one("proxyjump")):
        jump = jump_of(hops, settings, f"{label}: ProxyJump of {settings.host}")
    proxy = one("proxycommand") if jump is None else None
    local = {**tokens, "d": str(Path.home()), "u": own_name(), "i": str(os.getuid()), "l": socket.getfqdn, "L": socket.gethostname}
    if settings.key_file is not None:
        keys: tuple[Path, ...] = (Path(settings.key_file).expanduser(),)
        if not keys[0].is_file():
            raise UsageError(f"{label}: the key file {keys[0]} is not there: name the private key in `key`")
    else:
        named = [_path(p, local) for p in values.get("identityfile", ())]
        standard = [Path(f"~/.ssh/{n}").expanduser() for n in ("id_ed25519", "id_ecdsa", "id_rsa")]
        keys = tuple(p for p in (named or standard) if p.is_file())
    if settings.known_hosts is not None:
        known: tuple[Path, ...] = (Path(settings.known_hosts).expanduser(),)
    else:
        own = values.get("userknownhostsfile") or ("~/.ssh/known_hosts",)
        common = values.get("globalknownhostsfile") or ("/etc/ssh/ssh_known_hosts",)
        known = tuple(_path(p, local) for p in (*own, *common) if p.lower() != "none") or (Path("~/.ssh/known_hosts").expanduser(),)
    return SshTarget(
        label=label,
        host=host,
        port=port,
        user=user,
        key_files=keys,
        explicit_keys=settings.key_file is not None,
        certificates=tuple(_path(p, local) for p in values.get("certificatefile", ()) if p.lower() != "none"),
        known_hosts=known,
        host_key_name=alias or (host if port == 22 else f"[{host}]:{port}"),
        certified_name=alias or host,
        verify=settings.host_key_checking == "strict",
        agent=_agent(values, local) if settings.use_agent else None,
        timeout=settings.connect_timeout,
        keepalive=settings.keepalive_s,
        jump=jump,
        proxy=_expanded(proxy, tokens) if proxy else None,
        options=_options(settings),
        destination=f"{settings.user}@{settings.host}" if settings.user else settings.host,
        note=note,
    )


def jump_of(value: str, settings: SshSettings, where: str, key_file: str | os.PathLike[str] | None = None) -> SshSettings:
    """``user@host:port,...``: the last hop is nearest to the node and is reached through those before it.

    What it does not name comes from its own entry in the configuration, as with OpenSSH. Raises ``UsageError``.
    """
    jump: SshSettings | None = None
    for hop in value.split(","):
        user, _, address = hop.strip().removeprefix("ssh://").rpartition("@")
        found = re.fullmatch(
            r"\[(?P<v6>[^\]]+)\](?::(?P<a>\d{1,5}))?|(?P<name>[^:]+)(?::(?P<b>\d{1,5}))?|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)", address
        )
        if found is None:
            raise UsageError(f"{where}: {value!r} is no list of user@host:port; the port is a number, and IPv6 stands in brackets")
        host = found["v6"] or found["name"] or found["bare"]
        port = found["a"] or found["b"]
        jump = replace(settings, host=host, port=int(port) if port else None, user=user or None, key_file=key_file, jump=jump)
    assert jump is not None, "a split text has a part"
    return jump


def _refuse_words(label: str, settings: SshSettings) -> None:
    """A host or user that ``ssh`` would take for an option, or the shell of a ``ProxyCommand`` for a command (OpenSSH's rule since 9.6)."""
    shell = "'`\"$;&<>|(){}"
    for name, text, more in (("address", settings.host, "\\"), ("user", settings.user or "", "")):
        if text.startswith("-") or text.endswith("\\") or any(c in shell + more or c.isspace() or not c.isprintable() for c in text):
            raise UsageError(
                f"{label}: {name} {text!r} is refused: it may not begin with '-' nor hold blanks, quotes or what a shell acts on"
            )
    if not settings.host:
        raise UsageError(f"{label}: address is empty: give a host name or an IP address")


def _options(settings: SshSettings) -> tuple[str, ...]:
    """What of the settings is not in the user's configuration, for ``ssh`` and ``ssh-copy-id``."""
    words: list[str] = []
    if not settings.use_ssh_config:
        words += ["-F", "none"]
    elif str(settings.ssh_config) != DEFAULT_CONFIG:
        words += ["-F", str(Path(settings.ssh_config).expanduser())]
    if settings.port:
        words += ["-p", str(settings.port)]
    if settings.known_hosts is not None:
        words += ["-o", f"UserKnownHostsFile={Path(settings.known_hosts).expanduser()}"]
    hops, jump = [], settings.jump
    while jump:
        shown = f"[{jump.host}]" if ":" in jump.host else jump.host
        hops.append(f"{jump.user}@{shown}" if jump.user else shown)
        hops[-1] += f":{jump.port}" if jump.port else ""
        jump = jump.jump
    if hops:
        words += ["-o", f"ProxyJump={','.join(reversed(hops))}"]
    return tuple(words)


def _agent(values: Values, tokens: Mapping[str, object]) -> str | None:
    """The agent's socket: ``IdentityAgent`` before ``SSH_AUTH_SOCK``; None with ``IdentitiesOnly``."""
    if next(iter(values.get("identitiesonly", ())), "no").lower() == "yes":
        return None
    named = next(iter(values.get("identityagent", ())), "SSH_AUTH_SOCK")
    if named.lower() == "none":
        return None
    if named == "SSH_AUTH_SOCK" or named.startswith("$"):
        return os.environ.get(named.strip("${}")) or None
    return str(_path(named, tokens))


def _path(text: str, tokens: Mapping[str, object]) -> Path:
    with_environment = re.sub(r"\$\{(\w+)\}", lambda m: os.environ.get(m[1], m[0]), text)
    return Path(_expanded(with_environment, tokens)).expanduser()


def _expanded(text: str, tokens: Mapping[str, object]) -> str:
    """``%h`` and its like (TOKENS of ssh_config(5)); what is not known stays as it is."""

    def value(found: re.Match[str]) -> str:
        known = tokens.get(found[1], found[0])
        return str(known() if callable(known) else known)

    return re.sub(r"%(.)", value, text)


# --- the two readers -----------------------------------------------------------------------------------------------------


def _values(label: str, settings: SshSettings) -> tuple[Values, str]:
    """What the configuration says of the host, and what of it could not be read."""
    path = Path(settings.ssh_config).expanduser()
    named = str(settings.ssh_config) != DEFAULT_CONFIG
    if named and not path.is_file():
        return {}, ""
    ssh = shutil.which("ssh")
    if ssh is not None:
        text = _asked(label, ssh, settings, path if named else None)
        if text is not None:
            return parse(text), ""
    return _read(label, settings, path)


def _asked(label: str, ssh: str, settings: SshSettings, config: Path | None) -> str | None:
    """The answer of ``ssh -G``; None where it can tell nothing about anybody. Raises ``UsageError``."""
    command = [ssh, "-G", *(["-F", str(config)] if config else [])]
    command += [*(["-p", str(settings.port)] if settings.port else []), *(["-l", settings.user] if settings.user else [])]
    command += ["--", settings.host]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{label}: `{shlex.join(command)}` did not end within {_ASK_S:g} s: look at `Match exec` there") from None
    except OSError:
        return None
    if done.returncode == 0:
        return done.stdout
    if "No user exists for uid" in done.stderr:  # a container's arbitrary user: ssh does nothing at all for it
        return None
    said = "; ".join(line for line in done.stderr.splitlines() if not line.startswith("Pseudo-terminal"))
    raise UsageError(
        f"{label}: {config or DEFAULT_CONFIG} cannot be used: `{shlex.join(command)}` says: {said.strip() or 'nothing'}. "
        "Mend it, or set `use_config: false`"
    )


def parse(text: str) -> Values:
    """The output of ``ssh -G``: a keyword and its value per line, some keywords more than once."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        # several files stand in one line, without quotes; each is absolute
        parts = re.split(r" (?=[/~]|none$)", value) if keyword.lower().endswith("knownhostsfile") else [value]
        found.setdefault(keyword.lower(), []).extend(p.strip() for p in parts)
    return found


def _read(label: str, settings: SshSettings, path: Path) -> tuple[Values, str]:
    """As paramiko reads the file. What is set explicitly goes in front, where it wins, so that tokens are expanded with it."""
    import paramiko

    if not path.is_file():
        return {}, ""
    explicit = (f"Port {settings.port}\n" if settings.port else "") + (f"User {settings.user}\n" if settings.user else "")
    try:
        text = path.read_text("utf-8", "replace")
        config = dict(paramiko.SSHConfig.from_text(explicit + text).lookup(settings.host))
    except (paramiko.SSHException, ImportError, ValueError, OSError) as error:
        raise UsageError(f"{label}: {path} cannot be used: {error}. Mend it, or set `use_config: false`") from error
    found = {keyword: [value] if isinstance(value, str) else list(value or ()) for keyword, value in config.items()}
    for keyword in ("userknownhostsfile", "globalknownhostsfile"):
        if keyword in found:
            found[keyword] = shlex.split(" ".join(found[keyword]))
    for keyword in ("proxycommand", "identityfile", "certificatefile"):  # expanded already
        found[keyword] = [value.replace("%", "%%") for value in found.get(keyword, ())]
    followed = not re.search(r"(?im)^\s*Include[\s=]", text)
    return found, "" if followed else f"{path} has an `Include`, which is followed only where ssh is installed: install openssh-client"
