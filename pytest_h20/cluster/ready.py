"""Is it really ready, and is it really ours?

The ready line alone proves little: SGLang prints it although its port belonged to somebody else, its warm-up having gone to
that other server (recorded with 0.5.16); vLLM 0.24 shares a busy port through SO_REUSEPORT without complaint. So the socket
that listens on the port is traced to a process inside our container, and one real completion must come back in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pytest_h20.cluster.http import ask
from pytest_h20.core.errors import TransportError

_LISTENERS = r"""# h20-ask: listeners {port}
sockets=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ local _ state _ _ _ _ _ inode _; do
  case "$local:$state" in *:{hex}:0A) echo "$inode";; esac; done)
for i in $sockets; do
  echo "inode $i"
  ls -l /proc/[0-9]*/fd 2>/dev/null | grep -e '^/proc' -e "socket:\[$i\]" | grep -B1 'socket:' | grep '^/proc' |
    while IFS=/ read -r _ _ pid _; do
      echo "owner $i $pid $(tr '\000' ' ' </proc/$pid/cmdline | cut -c1-120)"
    done
done
echo end"""


def listeners_command(port: int) -> tuple[str, ...]:
    """argv, for inside a container: the sockets that listen on a port and the container's processes that hold them."""
    return ("/bin/sh", "-c", _LISTENERS.replace("{port}", str(port)).replace("{hex}", f"{port:04X}"))


@dataclass(frozen=True)
class Listeners:
    """Who listens on a port, as seen from inside a container that shares the host's network."""

    sockets: tuple[str, ...]
    ours: dict[str, str]

    @property
    def all_ours(self) -> bool:
        """True when there is a listening socket and our container holds every one."""
        return bool(self.sockets) and all(s in self.ours for s in self.sockets)


def parse_listeners(text: str) -> Listeners | None:
    """Read the output of ``listeners_command``; None when it is not complete."""
    lines = [line.strip() for line in text.splitlines()]
    if "end" not in lines:
        return None
    sockets = tuple(dict.fromkeys(line.split()[1] for line in lines if re.fullmatch(r"inode \d+", line)))
    ours: dict[str, str] = {}
    for line in lines:
        if match := re.match(r"owner (\d+) (\d+) ?(.*)", line):
            ours.setdefault(match[1], f"pid {match[2]}: {match[3].strip()}")
    return Listeners(sockets, ours)


def first_completion(url: str, model: str, timeout: float, headers: dict[str, str] | None = None) -> tuple[bool, str]:
    """One real completion of one token. Returns (came back, what was seen)."""
    body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        answer = ask(url, "/v1/completions", body=body, headers=headers, timeout=timeout)
    except TransportError as error:
        return False, str(error)
    if answer.status != 200:
        return False, f"POST /v1/completions answered {answer.status}: {answer.body[:300].decode('utf-8', 'replace')}"
    data = answer.json()
    usage = data.get("usage") if isinstance(data, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if tokens != 1:
        return False, f"POST /v1/completions for one token reported completion_tokens={tokens!r}"
    return True, "one token came back"


def wait_for_health(
    url: str, path: str, deadline: float, now: Callable[[], float], sleep: Callable[[float], None], alive: Callable[[], None]
) -> str | None:
    """Poll until the health route answers 200. Returns None, or what was last seen when the deadline passed.

    ``alive`` is called between the polls and raises when the engine has ended meanwhile.
    """
    last = "not asked yet"
    while now() < deadline:
        try:
            answer = ask(url, path, timeout=5.0)
            if answer.status == 200:
                return None
            last = f"GET {path} answers {answer.status}"
        except TransportError as error:
            last = str(error)
        alive()
        sleep(1.0)
    return last
