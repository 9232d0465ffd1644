"""Which container daemon is at a socket, by its name, and the command that connects to it as another user."""

from __future__ import annotations

from pathlib import PurePosixPath


def dial(socket: str) -> tuple[str, ...]:
    """The command whose standard input and output are a connection to the daemon at ``socket``: what ``docker -H ssh://`` runs itself."""
    if "podman" in PurePosixPath(socket).name:
        return ("podman", "--url", f"unix://{socket}", "system", "dial-stdio")
    return ("docker", "-H", f"unix://{socket}", "system", "dial-stdio")
