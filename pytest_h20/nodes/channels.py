"""paramiko with the one channel kind it lacks, and preferences in one place. Imports paramiko: import it lazily."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN

_AGENT_S = 60.0  # an agent may ask its user before it signs
STREAMLOCAL = "direct-streamlocal@openssh.com"


class Transport(paramiko.Transport):
    """A transport that can also open a channel to a unix socket on the node (OpenSSH PROTOCOL, section 2.4).

    ``paramiko.Transport.open_channel`` takes any kind but writes the payload only of those it knows; ours (path, reserved
    string, reserved number) is added to the message on its way out, by the thread that is opening the channel.
    """

    _opening = threading.local()

    def open_channel(self, *args: Any, **kwargs: Any) -> paramiko.Channel:
        """As paramiko's. It keeps one error for all threads: of two refusals at once the second comes without its reason."""
        try:
            return super().open_channel(*args, **kwargs)
        except paramiko.ChannelException:
            raise
        except paramiko.SSHException as error:
            if self.is_active() and "Unable to open channel" in str(error):
                raise paramiko.ChannelException(2, "refused") from error
            raise

    def open_streamlocal(self, path: str, timeout: float) -> paramiko.Channel:
        """Open a channel to the unix socket ``path``. Raises ``paramiko.SSHException`` as ``open_channel`` does."""
        self._opening.path = path
        try:
            return self.open_channel(STREAMLOCAL, timeout=timeout)
        finally:
            self._opening.path = None

    def _send_user_message(self, data: paramiko.Message) -> None:
        path = getattr(self._opening, "path", None)
        if path is not None and data.asbytes()[:1] == cMSG_CHANNEL_OPEN:
            data.add_string(path)
            data.add_string("")
            data.add_int(0)
            self._opening.path = None
        super()._send_user_message(data)  # type: ignore[misc]

    def prefer_host_keys(self, kinds: Sequence[str], certificates: bool = False) -> None:
        """Ask the server for a host key of a kind we know, as OpenSSH does; an RSA key serves three algorithms.

        ``certificates``: ask for a host certificate first. Who takes one must look at more than the key in it.
        """
        options = self.get_security_options()
        available = tuple(options.key_types)
        wanted = {k for kind in kinds for k in ((kind, "rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,))}
        plain = sorted(available, key=lambda k: k not in wanted)
        signed = [f"{kind}-cert-v01@openssh.com" for kind in plain]
        options.key_types = [*(k for k in signed if certificates and k in self._key_info), *plain]  # type: ignore[attr-defined]


class Agent(paramiko.agent.AgentSSH):
    """The keys of the agent at this socket. Raises ``paramiko.SSHException`` or ``OSError`` for what is no agent."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_AGENT_S)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the connection; its keys are of no use any more."""
        self._close()  # type: ignore[attr-defined]
