"""TCP/IP: interfaces, routes, firewall, ports in use, ping at full size, and TCP connections between the nodes."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pytest_h20.probes.script import HINT_RIGHTS, Probe, ProbeError, integer, number, pairs, rows, whole


@dataclass(frozen=True)
class Interface:
    """A net device. ``addresses``: with prefix length (``33.2.160.15/25``). ``speed`` Mbit/s. ``carrier_changes`` since it
    came up."""

    name: str
    mtu: int | None
    state: str
    carrier: bool | None
    carrier_changes: int | None
    speed: int | None
    mac: str
    addresses: tuple[str, ...] = ()

    @property
    def ipv4(self) -> tuple[ipaddress.IPv4Interface, ...]:
        """Its IPv4 addresses with their networks."""
        return tuple(i for i in map(ipaddress.ip_interface, self.addresses) if isinstance(i, ipaddress.IPv4Interface))


@dataclass(frozen=True)
class Network:
    """Interfaces, and the default route of IPv4 (device, source address or "")."""

    interfaces: tuple[Interface, ...]
    default_v4: tuple[str, str] | None

    def interface(self, name: str) -> Interface | None:
        """A net device by name."""
        return next((i for i in self.interfaces if i.name == name), None)

    def owner(self, address: str) -> Interface | None:
        """The net device that has an address."""
        for i in self.interfaces:
            if any(str(ipaddress.ip_interface(a).ip) == address for a in i.addresses):
                return i
        return None


def parse_network(text: str) -> Network:
    """Tab-separated: ``link NAME MTU STATE CARRIER CHANGES SPEED MAC``, ``addr NAME ADDRESS/PREFIX``, and
    ``default 4 DEVICE SOURCE`` (the best default route)."""
    addresses: dict[str, list[str]] = {}
    for name, address in rows(text, "addr", 2):
        try:
            addresses.setdefault(name, []).append(str(ipaddress.ip_interface(address)))
        except ValueError as error:
            raise ProbeError(f"addr line of {name}: {error}") from None
    links = []
    for r in rows(text, "link", 7):
        carrier = {"1": True, "0": False}.get(r[3])
        links.append(Interface(r[0], integer(r[1]), r[2], carrier, integer(r[4]), integer(r[5]), r[6], tuple(addresses.get(r[0], ()))))
    if not links:
        raise ProbeError("no link line")
    default = {r[0]: (r[1], r[2]) for r in rows(text, "default", 3) if r[1]}
    return Network(tuple(links), default.get("4"))


NETWORK = Probe(
    "network",
    r"""
command -v ip >/dev/null || { echo "ip (iproute) is not installed" >&2; exit 127; }
g() { v=; { read -r v <"$1"; } 2>/dev/null; }
for i in /sys/class/net/*; do
  [ -e $i/mtu ] || continue
  g $i/mtu; m=$v; g $i/operstate; s=$v; g $i/carrier; c=$v; g $i/carrier_changes; k=$v; g $i/speed; p=$v; g $i/address
  printf 'link\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${i##*/}" "$m" "$s" "$c" "$k" "$p" "$v"
done
ip -o addr show 2>/dev/null | while read -r n dev fam a rest; do
  case $fam in inet|inet6) printf 'addr\t%s\t%s\n' "${dev%:}" "$a";; esac
done
r=`ip -4 route show default 2>/dev/null | head -n 1`
d=`echo "$r" | sed -n 's/.* dev \([^ ]*\).*/\1/p'`; s=`echo "$r" | sed -n 's/.* src \([^ ]*\).*/\1/p'`
[ -n "$d" ] && printf 'default\t4\t%s\t%s\n' "$d" "$s"
true
""",
    parse_network,
    seconds=60,
    hint="yum install iproute / apt install iproute2",
)


@dataclass(frozen=True)
class Firewall:
    """What could drop connections. ``services``: active firewall services; ``input_policy``: iptables' INPUT policy or ""."""

    services: tuple[str, ...]
    input_policy: str
    input_drops: int
    nft_drops: int | None


def parse_firewall(text: str) -> Firewall:
    """``service=firewalld|ufw|nftables|iptables`` per active service, ``policy=ACCEPT|DROP``, ``drops=N`` (INPUT rules that
    drop or reject), ``nft=N``."""
    p = pairs(text)
    services = tuple(sorted({x.split("=", 1)[1] for x in text.splitlines() if x.startswith("service=")}))
    if "drops" not in p:
        raise ProbeError("no drops= line")
    return Firewall(services, p.get("policy", ""), integer(p["drops"]) or 0, integer(p.get("nft")))


FIREWALL = Probe(
    "firewall",
    r"""
if command -v systemctl >/dev/null; then
  for s in firewalld ufw nftables iptables; do [ "`systemctl is-active $s 2>/dev/null`" = active ] && echo "service=$s"; done
fi
if command -v iptables >/dev/null; then
  r=`priv iptables -w 2 -S INPUT 2>&1` || r=`priv iptables -S INPUT 2>&1` || { echo "iptables: $r" >&2; exit 126; }
  echo "policy=`printf '%s\n' "$r" | sed -n 's/^-P INPUT //p'`"
  echo "drops=`printf '%s\n' "$r" | grep -cE -- '-j (DROP|REJECT)'`"
else
  echo "policy="; echo "drops=0"
fi
if command -v nft >/dev/null; then
  if n=`priv nft list ruleset 2>&1`; then echo "nft=`printf '%s\n' "$n" | grep -cE ' (drop|reject)'`"
  elif refused; then echo "nft: $n" >&2; exit 126
  fi
fi
true
""",
    parse_firewall,
    hint=HINT_RIGHTS,
)


@dataclass(frozen=True)
class Listener:
    """A TCP port in use. ``owner``: ``name (pid 123)`` or "" when the rights were missing."""

    port: int
    address: str
    owner: str


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """``listen<TAB>ADDRESS:PORT<TAB>OWNER`` lines; owner as ``ss`` prints it (``users:(("python3",pid=12,fd=3))``) or empty;
    and
    ``total=N`` so that an empty table is not taken for a failed command."""
    if integer(pairs(text).get("total")) is None:
        raise ProbeError("no total= line")
    found = []
    for address, owner in rows(text, "listen", 2):
        host, _, port = address.rpartition(":")
        if re.fullmatch("[0-9]{1,5}", port):
            m = re.search(r'\(\("([^"]*)",(?:pid=)?(\d+)', owner)
            found.append(Listener(int(port), host.strip("[]"), f"{m[1]} (pid {m[2]})" if m else ""))
    return tuple(found)


LISTENERS = Probe(
    "listeners",
    r"""
if command -v ss >/dev/null && o=`priv ss -ltnp 2>/dev/null`; then
  printf '%s\n' "$o" | while read -r st rq sq local peer users; do
    case $st in LISTEN) printf 'listen\t%s\t%s\n' "$local" "$users";; esac
  done
else
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r sl local rem st rest; do
    case $st in 0A) printf 'listen\t%s:%d\t\n' "${local%:*}" "0x${local##*:}";; esac
  done
fi
echo "total=`grep -c . /proc/net/tcp`"
""",
    parse_listeners,
)


@dataclass(frozen=True)
class Ping:
    """One rail pinged at one size. ``rtt_ms``: average round trip. ``sent``/``received`` packets."""

    interface: str
    peer: str
    size: int
    sent: int
    received: int
    rtt_ms: float | None
    message: str
    route_device: str = ""


def parse_pings(text: str) -> tuple[Ping, ...]:
    """``ping<TAB>INTERFACE<TAB>PEER<TAB>SIZE<TAB>SENT<TAB>RECEIVED<TAB>RTT_MS<TAB>ROUTE_DEVICE<TAB>MESSAGE`` per target."""
    return tuple(
        Ping(r[0], r[1], whole(r[2], "size of a ping"), integer(r[3]) or 0, integer(r[4]) or 0, number(r[5]), r[7], r[6])
        for r in rows(text, "ping", 8)
    )


# Arguments: INTERFACE PEER SIZE triples; size is the ICMP payload in bytes (MTU less 28). All at once: a dead rail costs its
# own time.
PING = Probe(
    "ping",
    r"""
command -v ping >/dev/null || { echo "ping is not installed" >&2; exit 127; }
ask() {
  o=`ping -n -c $5 -i $4 -W 2 -M do -s $3 -I $1 $2 2>&1`
  s=`printf '%s\n' "$o" | sed -n 's/^\([0-9]*\) packets transmitted.*/\1/p'`
  r=`printf '%s\n' "$o" | sed -n 's/.* \([0-9]*\) \(packets \)*received.*/\1/p'`
}
one() {
  ask $1 $2 $3 0.2 3
  # After the first reply ping waits for the last one only an interval or two round trips: late on a busy node is not lost.
  [ "$r" = "$s" ] || [ "${r:-0}" = 0 ] || ask $1 $2 $3 1 5
  t=`printf '%s\n' "$o" | sed -n 's#^r[a-z-]*t[a-z-]* .*= [0-9.]*/\([0-9.]*\)/.*#\1#p'`
  m=`printf '%s\n' "$o" | grep -iE 'too long|frag|unreach|bind|unknown|invalid|not permitted|cannot' | head -n 1 | tr '\t' ' '`
  d=`ip route get $2 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1`
  printf 'ping\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' $1 $2 $3 "$s" "$r" "$t" "$d" "$m"
}
while [ $# -ge 3 ]; do one $1 $2 $3 & shift 3; done
wait
""",
    parse_pings,
    seconds=30,
    hint="yum install iputils / apt install iputils-ping",
)


@dataclass(frozen=True)
class Listening:
    """A listener we started: asked port -> bound port (0 asks for an ephemeral one), or the error instead. ``pid`` to end
    it."""

    pid: int
    bound: tuple[tuple[int, int], ...]
    errors: tuple[tuple[int, str], ...]


def parse_listening(text: str) -> Listening:
    """``pid=N``, ``bound<TAB>ASKED<TAB>PORT`` and ``busy<TAB>ASKED<TAB>MESSAGE`` lines."""
    said = pairs(text).get("pid")
    if said is None:
        raise ProbeError("no pid= line")
    pid = whole(said, "pid", low=2)  # it is killed later: 0, 1 and -1 are never one of ours
    bound = tuple((_port(a), _port(b)) for a, b in rows(text, "bound", 2))
    return Listening(pid, bound, tuple((_port(a), m) for a, m in rows(text, "busy", 2)))


def _port(text: str) -> int:
    return whole(text, "port", high=65535)


# Arguments: SECONDS PORT... (0 = ephemeral). Python 2 or 3. It accepts, greets, and ends by itself after SECONDS.
# SO_REUSEADDR: the engine that wants the same port a moment later must not meet our TIME_WAIT.
LISTEN = Probe(
    "listen",
    r"""
p=; for c in python3 python2 python /usr/libexec/platform-python; do $c -c pass >/dev/null 2>&1 && { p=$c; break; }; done
[ -n "$p" ] || { echo "no Python to listen with" >&2; exit 127; }
f=`mktemp "${TMPDIR:-/tmp}/h20-listen.XXXXXX"` || exit 73
cat >"$f.py" <<'PY'
import os, select, socket, sys, time
end = time.time() + float(sys.argv[1])
socks = []
for asked in sys.argv[2:]:
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("0.0.0.0", int(asked)))
        s.listen(64)
        socks.append(s)
        print("bound\t%s\t%d" % (asked, s.getsockname()[1]))
    except (OSError, socket.error) as e:
        print("busy\t%s\t%s" % (asked, e))
print("pid=%d" % os.getpid())
sys.stdout.flush()
null = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
while time.time() < end:
    ready = select.select(socks, [], [], 0.5)[0]
    for s in ready:
        c, _ = s.accept()
        try:
            c.settimeout(1)
            c.sendall(b"h20\n")
            c.recv(16)
        except (OSError, socket.error):
            pass
        c.close()
PY
# Its own session, so that neither our time limit nor the end of this shell takes it along.
if command -v setsid >/dev/null; then setsid $p "$f.py" "$@" >"$f" 2>&1 </dev/null & else nohup $p "$f.py" "$@" >"$f" 2>&1 </dev/null & fi
i=0; while [ $i -lt 50 ] && ! grep -q '^pid=' "$f"; do sleep 0.1 2>/dev/null || sleep 1; i=$((i + 1)); done
cat "$f"; rm -f "$f" "$f.py"
""",
    parse_listening,
    hint="install Python (any version) on the node: yum install python3 / apt install python3-minimal",
)


@dataclass(frozen=True)
class Connect:
    """One TCP connection attempt. ``outcome``: ok, refused, timeout, or the system's words. ``ms``: time to the greeting."""

    address: str
    port: int
    outcome: str
    ms: float | None

    @property
    def ok(self) -> bool:
        """True when our own listener answered."""
        return self.outcome == "ok"


def parse_connects(text: str) -> tuple[Connect, ...]:
    """``connect<TAB>ADDRESS<TAB>PORT<TAB>OUTCOME<TAB>MILLISECONDS`` per target."""
    return tuple(Connect(r[0], _port(r[1]), r[2], number(r[3])) for r in rows(text, "connect", 4))


# Arguments: ADDRESS PORT pairs. All at once (threads); 3 s each. Any Python, else bash's /dev/tcp.
CONNECT = Probe(
    "connect",
    r"""
p=; for c in python3 python2 python /usr/libexec/platform-python; do $c -c pass >/dev/null 2>&1 && { p=$c; break; }; done
if [ -n "$p" ]; then
$p - "$@" <<'PY'
import errno, socket, sys, threading, time
lock = threading.Lock()
def one(host, port):
    t = time.time()
    try:
        s = socket.create_connection((host, int(port)), 3)
        s.settimeout(3)
        got = s.recv(16)
        s.close()
        r = "ok" if got == b"h20\n" else "something else answers there"
    except socket.timeout:
        r = "timeout"
    except (OSError, socket.error) as e:
        r = "refused" if e.errno == errno.ECONNREFUSED else str(e)
    with lock:
        print("connect\t%s\t%s\t%s\t%.2f" % (host, port, r.replace("\t", " "), (time.time() - t) * 1000))
        sys.stdout.flush()
a = sys.argv[1:]
for i in range(0, len(a) - 1, 2):
    threading.Thread(target=one, args=(a[i], a[i + 1])).start()
PY
elif command -v bash >/dev/null; then
  while [ $# -ge 2 ]; do
    if timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2 && read -r g <&3 && [ \"\$g\" = h20 ]" 2>/dev/null; then o=ok; else o='no answer'; fi
    printf 'connect\t%s\t%s\t%s\t\n' "$1" "$2" "$o"; shift 2
  done
else
  echo "neither Python nor bash to connect with" >&2; exit 127
fi
""",
    parse_connects,
    seconds=30,
    hint="install Python (any version) on the node",
)
