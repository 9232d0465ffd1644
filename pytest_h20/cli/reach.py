"""Options of commands that reach hosts over SSH without an inventory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pytest_h20.core.errors import UsageError


def add_ssh(parser: argparse.ArgumentParser) -> None:
    """``--user``, ``--port``, ``--key``, ``--jump``, ``--known-hosts``, ``--insecure``."""
    parser.add_argument("--user", help="log in as (default: ~/.ssh/config)")
    parser.add_argument("--port", type=int, help="SSH port")
    parser.add_argument("--key", help="private key file")
    parser.add_argument("--jump", help="jump host as user@host:port")
    parser.add_argument("--known-hosts", help="known_hosts file")
    parser.add_argument("--insecure", action="store_true", help="do not check host keys (told in every report)")


def ssh_words(options: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the names of an inventory's ``ssh:``."""
    pairs = (("user", options.user), ("port", options.port), ("key", options.key), ("jump", options.jump))
    found: dict[str, Any] = {k: v for k, v in pairs if v is not None}
    if options.known_hosts:
        found["known_hosts"] = str(Path(options.known_hosts).expanduser().resolve())
    if options.key:
        found["key"] = str(Path(options.key).expanduser().resolve())
    if options.insecure:
        found["host_key_checking"] = "off"
    return found


def split_host(host: str) -> tuple[str | None, str, int | None]:
    """``[user@]address[:port]``. Raises ``UsageError``."""
    user, _, rest = host.rpartition("@")
    if rest.count(":") == 1:
        name, _, port = rest.partition(":")
        if not port.isdigit() or not 1 <= int(port) <= 65535:
            raise UsageError(f"{host}: {port!r} is not a port; give [user@]address[:port]")
        return user or None, name, int(port)
    if not rest:
        raise UsageError(f"{host!r}: no address; give [user@]address[:port]")
    return user or None, rest, None
