"""Reading a file on a node into whose folder a container writes: a regular file at that very place, or nothing.

Looking first and reading then would be two steps, and what writes there can put a link in the place of the file between them, as
often as it likes. So the file is opened once, on the node, and what was opened is looked at: what it is, and where it really lies.
"""

from __future__ import annotations

import base64
import errno
import shlex

from pytest_h20.cluster.ledger import MARK
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded

_NONE = 66
# A pipe is not even opened: that would wait. Whoever puts one there between the two steps gains a command that ends at its deadline.
_READ = (
    MARK
    + """b=%s
cd -P -- "$b" 2>/dev/null || exit 66
[ -f %s ] && [ ! -L %s ] || exit 66
exec 3<%s
[ -f /proc/self/fd/3 ] && [ "$(readlink /proc/self/fd/3)" = "$(pwd -P)/"%s ] || exit 66
{ %s; } <&3 | base64
"""
)


def names(node: Node, folder: str, pattern: str) -> list[str]:
    """Names of the regular files in a folder that match a shell pattern. Empty when it is not there."""
    listing = node.run("find %s -maxdepth 1 -type f -name %s -print", folder, pattern, timeout=30.0).stdout.splitlines()
    found = (path.rpartition("/")[2] for path in listing)
    return sorted(name for name in found if name.isprintable())


def read(node: Node, path: str, offset: int = 0, limit: int | None = None, only: str = "") -> bytes:
    """``limit`` bytes of a regular file on a node from ``offset`` on (all of the rest when None); with a negative ``offset`` from so
    many bytes before its end on. ``only``: of its lines only those that hold this text.

    Raises ``FileNotFoundError`` when no regular file lies there (a link, a pipe or a device is none), ``H20Error`` when the node
    does not answer or cannot read it.
    """
    folder, _, name = path.rpartition("/")
    here = shlex.quote(f"./{name}")
    part = f"tail -c {-offset}" if offset < 0 else f"tail -c +{offset + 1}" if offset else "cat"
    part += f" | grep -aF -- {shlex.quote(only)}" if only else ""
    part += f" | head -c {limit}" if limit is not None else ""
    script = _READ % (shlex.quote(folder or "/"), here, here, here, shlex.quote(name), part)
    result = unrecorded(node).run(script, timeout=120.0)
    if result.rc == _NONE:
        raise FileNotFoundError(errno.ENOENT, f"no regular file on {node.name}", path)
    if not result.ok or result.stderr:
        raise H20Error(f"{node.name}: cannot read {path}: {(result.stderr or f'exit status {result.rc}').strip()[-300:]}")
    try:
        return base64.b64decode(result.stdout)
    except ValueError as error:
        raise H20Error(f"{node.name}: cannot read {path}: what came is no base64 text: {error}") from None
