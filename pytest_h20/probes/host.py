"""The machine itself: system, tuning, limits, names, proxies, disks, tools. Every format is documented at its parser."""

# ruff: noqa: E501 - shell and foreign text stay on their own lines
from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_h20.probes.script import Probe, ProbeError, integer, number, pairs, rows


@dataclass(frozen=True)
class System:
    """Who this machine is. ``uptime_s`` in seconds, ``memory_kib``/``swap_kib`` in KiB, ``utc_offset`` like ``+0800``."""

    os: str
    kernel: str
    arch: str
    hostname: str
    machine_id: str
    boot_id: str
    uptime_s: float | None
    cpus: int | None
    memory_kib: int | None
    swap_kib: int | None
    swap_used_kib: int | None
    utc_offset: str
    timezone: str
    cmdline: str


def parse_system(text: str) -> System:
    """``key=value`` lines with the names of the fields of ``System``."""
    p = pairs(text)
    if not p.get("kernel"):
        raise ProbeError("no kernel= line")
    total, free = integer(p.get("swap_kib")), integer(p.get("swap_free_kib"))
    return System(
        os=p.get("os", ""),
        kernel=p["kernel"],
        arch=p.get("arch", ""),
        hostname=p.get("hostname", ""),
        machine_id=p.get("machine_id", ""),
        boot_id=p.get("boot_id", ""),
        uptime_s=number(p.get("uptime_s")),
        cpus=integer(p.get("cpus")),
        memory_kib=integer(p.get("memory_kib")),
        swap_kib=total,
        swap_used_kib=None if total is None or free is None else total - free,
        utc_offset=p.get("utc_offset", ""),
        timezone=p.get("timezone", ""),
        cmdline=p.get("cmdline", ""),
    )


SYSTEM = Probe(
    "system",
    r"""
os=
for f in /etc/centos-release /etc/redhat-release; do [ -z "$os" ] && [ -r $f ] && read -r os <$f; done
[ -z "$os" ] && [ -r /etc/os-release ] && os=`. /etc/os-release; echo "$PRETTY_NAME"`
echo "os=$os"
echo "kernel=`uname -r`"
echo "arch=`uname -m`"
echo "hostname=`hostname 2>/dev/null || uname -n`"
echo "machine_id=`cat /etc/machine-id 2>/dev/null`"
echo "boot_id=`cat /proc/sys/kernel/random/boot_id 2>/dev/null`"
read -r up rest </proc/uptime; echo "uptime_s=$up"
echo "cpus=`grep -c ^processor /proc/cpuinfo`"
while read -r k v u; do case $k in MemTotal:) echo "memory_kib=$v";; SwapTotal:) echo "swap_kib=$v";; SwapFree:) echo "swap_free_kib=$v";; esac
done </proc/meminfo
echo "utc_offset=`date +%z`"
echo "timezone=`date +%Z`"
echo "cmdline=`cat /proc/cmdline 2>/dev/null`"
""",
    parse_system,
)


@dataclass(frozen=True)
class Tuning:
    """Kernel settings that cost latency. ``governors``: the set in use over all cores; ``thp``: the selected word."""

    numa_balancing: int | None
    thp: str
    governors: tuple[str, ...]
    swappiness: int | None


def parse_tuning(text: str) -> Tuning:
    """``numa_balancing=0|1``, ``thp=always [madvise] never`` (as the kernel prints it), ``governor=NAME`` once per kind,
    ``swappiness=``."""
    p = pairs(text)
    selected = re.search(r"\[(\w+)\]", p.get("thp", ""))
    governors = sorted({line.split("=", 1)[1].strip() for line in text.splitlines() if line.startswith("governor=")} - {""})
    return Tuning(
        numa_balancing=integer(p.get("numa_balancing")),
        thp=selected[1] if selected else "",
        governors=tuple(governors),
        swappiness=integer(p.get("swappiness")),
    )


TUNING = Probe(
    "tuning",
    r"""
echo "numa_balancing=`cat /proc/sys/kernel/numa_balancing 2>/dev/null`"
echo "thp=`cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null`"
cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>/dev/null | sort -u | while read -r g; do echo "governor=$g"; done
echo "swappiness=`cat /proc/sys/vm/swappiness 2>/dev/null`"
""",
    parse_tuning,
)


@dataclass(frozen=True)
class Limits:
    """Limits of a process here; None = unlimited. ``memlock_kib``/``stack_kib`` in KiB, ``shm_kib`` = size of /dev/shm in
    KiB."""

    memlock_kib: int | None
    nofile: int | None
    stack_kib: int | None
    shm_kib: int | None
    shm_free_kib: int | None
    ipc_namespace: str


def parse_limits(text: str) -> Limits:
    """``memlock=``, ``nofile=``, ``stack=`` as ``ulimit`` prints them (KiB, or ``unlimited``), ``shm=TOTAL FREE`` in KiB,
    ``ipc=ipc:[N]``."""
    p = pairs(text)
    for key in ("memlock", "nofile", "stack"):
        if key not in p or not re.match(r"^(\d+|unlimited)$", p[key]):
            raise ProbeError(f"{key}={p.get(key)!r} is neither a number nor unlimited")
    shm = p.get("shm", "").split()
    return Limits(
        memlock_kib=integer(p["memlock"]),
        nofile=integer(p["nofile"]),
        stack_kib=integer(p["stack"]),
        shm_kib=integer(shm[0]) if shm else None,
        shm_free_kib=integer(shm[1]) if len(shm) > 1 else None,
        ipc_namespace=p.get("ipc", ""),
    )


LIMITS = Probe(
    "limits",
    r"""
m=`ulimit -l 2>/dev/null`
if [ -z "$m" ]; then
  m=`sed -n 's/^Max locked memory *\([0-9a-z]*\) .*/\1/p' /proc/self/limits`; [ "$m" = unlimited ] || m=$((m / 1024))
fi
echo "memlock=$m"
echo "nofile=`ulimit -n`"
echo "stack=`ulimit -s`"
set -- `df -Pk /dev/shm 2>/dev/null | tail -n 1`
echo "shm=$2 $4"
echo "ipc=`readlink /proc/self/ns/ipc 2>/dev/null`"
""",
    parse_limits,
)


@dataclass(frozen=True)
class SharedFile:
    """A file of NCCL in /dev/shm. ``used``: a process has it in its memory; None where this login may not look."""

    name: str
    size: int
    used: bool | None


def parse_nccl_shm(text: str) -> tuple[SharedFile, ...]:
    """``root=0|1``, ``file NAME SIZE INODE`` and ``used INODE NAME`` of /proc/PID/maps, tab-separated. Names that NCCL does not give
    are left out."""
    root = pairs(text).get("root")
    if root not in ("0", "1"):
        raise ProbeError("no root= line")
    used = {(inode, name) for inode, name in rows(text, "used", 2)}
    return tuple(
        SharedFile(name, integer(size) or 0, True if (inode, name) in used else False if root == "1" else None)
        for name, size, inode in rows(text, "file", 3)
        if re.fullmatch(r"nccl-[A-Za-z0-9_-]{1,64}", name)
    )


NCCL_SHM = Probe(
    "nccl_shm",
    r"""
[ -r /dev/shm ] || { echo "/dev/shm cannot be read" >&2; exit 1; }
[ "`id -u`" = 0 ] && echo root=1 || echo root=0
n=
for f in /dev/shm/nccl-*; do
  [ -f "$f" ] || continue
  n=1; printf 'file	%s	%s	%s
' "${f##*/}" `stat -c '%s %i' "$f"`
done
[ -z "$n" ] || cat /proc/[0-9]*/maps 2>/dev/null | grep /nccl- | sed -n 's#^[^ ]* [^ ]* [^ ]* [^ ]* \([0-9]*\) .*/\(nccl-[^ /]*\)$#used\t\1\t\2#p' | sort -u
:
""",
    parse_nccl_shm,
)


@dataclass(frozen=True)
class Names:
    """How this machine names itself. ``resolved``: addresses its own host name gives."""

    hostname: str
    resolved: tuple[str, ...]


def parse_names(text: str) -> Names:
    """``hostname=``, ``resolved=ADDR ...`` (own host name through the resolver)."""
    p = pairs(text)
    if "hostname" not in p:
        raise ProbeError("no hostname= line")
    return Names(p["hostname"], tuple(p.get("resolved", "").split()))


NAMES = Probe(
    "names",
    r"""
h=`hostname 2>/dev/null || uname -n`
echo "hostname=$h"
r=`getent ahosts "$h" 2>/dev/null | while read -r a b; do echo "$a"; done | sort -u | tr '\n' ' '`
[ -n "$r" ] || r=`while read -r a names; do for n in $names; do [ "$n" = "$h" ] && echo "$a"; done; done </etc/hosts | tr '\n' ' '`
echo "resolved=$r"
""",
    parse_names,
)

_CREDENTIALS = re.compile(r"://[^/@\s]*@")


@dataclass(frozen=True)
class Proxies:
    """Proxy variables by name (lower case). Credentials in them are masked."""

    values: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The value of a variable, or an empty text."""
        return dict(self.values).get(name, "")

    @property
    def active(self) -> dict[str, str]:
        """Those that would send requests elsewhere (all but ``no_proxy``)."""
        return {k: v for k, v in self.values if k != "no_proxy" and v}


def parse_proxies(text: str) -> Proxies:
    """``proxy NAME=VALUE`` lines (any case)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("proxy ") and "=" in line:
            name, _, value = line.removeprefix("proxy ").partition("=")
            found[name.strip().lower()] = _CREDENTIALS.sub("://***@", value.strip().strip("\"'"))
        elif line.strip():
            raise ProbeError(f"not a proxy line: {_CREDENTIALS.sub('://***@', line)[:80]!r}")
    return Proxies(tuple(sorted(found.items())))


# Credentials are cut off on the node already, so that they are not even in the recorded section.
PROXIES = Probe(
    "proxies",
    r"""
{ env; cat /etc/environment 2>/dev/null
  sed -n 's/.*"\(http\|https\|no\)Proxy" *: *"\([^"]*\)".*/\1_proxy=\2/p' "$HOME/.docker/config.json" 2>/dev/null
} | grep -iE '^(export )?(http|https|all|no|ftp)_proxy=' | sed 's/^export //; s#://[^/@]*@#://***@#g; s/^/proxy /'
true
""",
    parse_proxies,
)


@dataclass(frozen=True)
class Disk:
    """One folder: the file system it is on, what is free there in KiB. ``exists``/``readable`` are of the folder itself."""

    path: str
    exists: bool
    readable: bool
    device: str = ""
    free_kib: int | None = None


def parse_disks(text: str) -> dict[str, Disk]:
    """``disk<TAB>PATH<TAB>exists<TAB>readable<TAB>DEVICE<TAB>FSTYPE<TAB>SIZE_KIB<TAB>FREE_KIB`` per asked folder (exists:
    1/0)."""
    return {r[0]: Disk(r[0], r[1] == "1", r[2] == "1", r[3], integer(r[6])) for r in rows(text, "disk", 7)}


# A folder that is not there yet is measured at its nearest parent, and said not to exist.
DISKS = Probe(
    "disks",
    r"""
for p in "$@"; do
  e=0 r=0; [ -e "$p" ] && e=1; [ -r "$p" ] && r=1
  q=$p; while [ ! -e "$q" ] && [ "$q" != / ]; do q=`dirname "$q"`; done
  l=`df -Pk "$q" 2>/dev/null | tail -n 1`; f=`stat -f -c %T "$q" 2>/dev/null`
  dev= size= free=
  [ -n "$l" ] && { dev=${l%% *}; n=`echo "$l" | sed 's/.* \([0-9][0-9]*\)  *\([0-9][0-9]*\)  *\([0-9][0-9]*\)  *[0-9-]*%.*/\1 \3/'`; size=${n% *} free=${n#* }; }
  printf 'disk\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$p" $e $r "$dev" "$f" "$size" "$free"
done
""",
    parse_disks,
)

TOOLS_ASKED = (
    "docker",
    "ib_write_bw",
    "ibv_devinfo",
    "ibdev2netdev",
    "show_gids",
    "mlnx_qos",
    "dcb",
    "ethtool",
    "ss",
    "ping",
    "mpirun",
    "all_reduce_perf",
    "python3",
    "python2",
    "python",
    "perl",
    "sha256sum",
    "nvidia-smi",
    "nvidia-container-cli",
    "nvidia-container-runtime",
    "nvidia-ctk",
    "chronyc",
    "ntpq",
    "lspci",
)


@dataclass(frozen=True)
class Tools:
    """Where the tools are (name to path), and versions of those that tell one cheaply."""

    paths: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]

    def path(self, name: str) -> str:
        """Where a tool is, or an empty text."""
        return dict(self.paths).get(name, "")

    def version(self, name: str) -> str:
        """What it said about its version, or an empty text."""
        return dict(self.versions).get(name, "")


def parse_tools(text: str) -> Tools:
    """``tool<TAB>NAME<TAB>PATH`` per tool found and ``version<TAB>NAME<TAB>FIRST LINE``."""
    return Tools(
        tuple((n, p) for n, p in rows(text, "tool", 2)),
        tuple((n, v) for n, v in rows(text, "version", 2)),
    )


TOOLS = Probe(
    "tools",
    f"for n in {' '.join(TOOLS_ASKED)}; do\n"
    r"""  p=`command -v $n 2>/dev/null` && printf 'tool\t%s\t%s\n' $n "$p"
done
v() { o=`"$@" 2>/dev/null | head -n 1 | tr '\t' ' '`; [ -n "$o" ] && printf 'version\t%s\t%s\n' "$1" "$o"; }
v nvidia-container-runtime --version; v nvidia-container-cli --version; v nvidia-ctk --version; v docker --version; v ib_write_bw --version
true
""",
    parse_tools,
)
