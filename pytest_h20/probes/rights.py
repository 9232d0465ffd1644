"""What a login that is not root may ask the node to run as root: every command, what is lost without it, and sudo's own file for them.

Nothing else is ever run with ``sudo``: a snippet of a probe says ``priv COMMAND`` (``script.PRIV``), and each such command is listed
here (``tests/unit/probes/test_rights.py`` holds one to the other). All of them only read, but the last one: whoever may talk to the
container daemon is as good as root, by ``sudo`` as by its group.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_h20.nodes.daemon import dial
from pytest_h20.probes.script import Probe, rows

PLACES = ("/usr/bin", "/usr/sbin")
"""Where distributions put these programs. sudo compares the file, not its name: /bin and /sbin that are links to them are meant too."""
ELSEWHERE = {"docker": ("/usr/bin", "/usr/local/bin"), "podman": ("/usr/bin",), "dmesg": ("/usr/bin",), "ethtool": ("/usr/sbin",)}


@dataclass(frozen=True)
class Right:
    """One command that needs root. ``lost``: what cannot be measured (or, for the daemon, done) without it."""

    argv: tuple[str, ...]
    lost: str

    @property
    def command(self) -> str:
        """As a person types it."""
        return shlex.join(self.argv)

    def sudoers(self) -> str:
        """As sudoers(5) lists it: in each place where the program may be, with exactly these arguments."""
        program, *arguments = self.argv
        words = " ".join(re.sub(r"([,:=\\*?\[\]!])", r"\\\1", word) for word in arguments) or '""'
        return ", ".join(f"{place}/{program} {words}" for place in ELSEWHERE.get(program, PLACES))


def rights(interfaces: Iterable[str], hcas: Iterable[str], socket: str) -> tuple[Right, ...]:
    """Every command, in the order in which they are printed. ``interfaces``, ``hcas``: of the RDMA ports that the inventory names."""
    names, devices = sorted(dict.fromkeys(interfaces)), sorted(dict.fromkeys(hcas))
    return (
        Right(("dmesg",), "the kernel log"),
        Right(("lspci", "-D", "-vvv"), "ACS of the PCIe bridges"),
        Right(("ss", "-ltnp"), "who has a port that is taken"),
        Right(("iptables", "-w", "2", "-S", "INPUT"), "firewall rules"),
        Right(("iptables", "-S", "INPUT"), "firewall rules, where iptables is older than 1.4.20"),
        Right(("nft", "list", "ruleset"), "firewall rules"),
        *(Right(("ethtool", "-m", name), f"alarms of the transceiver of {name}") for name in names),
        *(Right((tool, "-d", hca, "-m", "-c"), f"light and bit errors of {hca}") for tool in ("mlxlink", "mstlink") for hca in devices),
        *(Right(("mlnx_qos", "-i", name), f"trust and PFC of {name}") for name in names),
        *(Right(("lldpctl", "-f", "keyvalue", name), f"the switch port of {name}") for name in names),
        Right(dial(socket), "every container; not needed where the login may use the daemon's socket, and as good as root itself"),
    )


HEAD = (
    "What pytest-h20 runs with `sudo -n`, word for word, and nothing else. To be checked with `visudo -cf FILE`, and put into "
    "/etc/sudoers.d (mode 0440) on every node. What a line that is left out is for could not be measured, and the report says so."
)
"""The first comment of the file."""


def sudoers(users: Iterable[str], wanted: Sequence[Right]) -> str:
    """The file for /etc/sudoers.d: these users, these commands, no password and no terminal."""
    lines = [f"# {line}" for line in textwrap.wrap(HEAD, 118)]
    for user in sorted(dict.fromkeys(users)):
        name = re.sub(r"([,:=\\!@ ])", r"\\\1", user)
        lines.append(f"Defaults:{name} !requiretty")
        for right in wanted:
            lines += [f"# {right.lost}", f"{name} ALL=(root) NOPASSWD: {right.sudoers()}"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Granted:
    """What the node's sudo says to the commands. ``user``: who the login is. ``refused``: command to the reason; a program that is not
    installed is in neither."""

    user: str
    root: bool
    allowed: tuple[str, ...]
    refused: dict[str, str]


def parse_granted(text: str) -> Granted:
    """``user<TAB>NAME<TAB>UID``, then ``ok<TAB>COMMAND`` or ``no<TAB>COMMAND<TAB>REASON`` for each that is installed."""
    user, uid = next(iter(rows(text, "user", 2)), ["", ""])
    refused = dict(rows(text, "no", 2))
    return Granted(user, uid == "0", tuple(r[0] for r in rows(text, "ok", 1)), refused)


# Arguments: the commands, each as one word. They are run: sudo itself says of a listed command only whether it may ever be run, not
# whether it asks for a password first.
GRANTED = Probe(
    "granted",
    r"""
printf 'user\t%s\t%s\n' "`id -un`" "`id -u`"
[ -n "$H20_SUDO" ] && [ "`id -u`" != 0 ] || exit 0
for c in "$@"; do
  eval "set -- $c"
  command -v "$1" >/dev/null || continue
  e=`sudo -n -- "$@" 2>&1 >/dev/null </dev/null`
  case $e in
    *sudo:*|*'Sorry, user'*) printf 'no\t%s\t%s\n' "$c" "`printf '%s\n' "$e" | grep -E 'sudo:|Sorry, user' | head -n 1 | tr '\t' ' '`";;
    *) printf 'ok\t%s\n' "$c";;
  esac
done
""",
    parse_granted,
    seconds=60,
)
