"""A log-in that is not root, on an sshd whose own mount namespace alone knows of the user: nothing is left on this machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from pytest_h20.nodes.ssh_config import SshSettings
from tests.integration.sshd import Sshd

USER, UID, DOCKER_GID = "h20-ops", 61234, 61235
FILES = ("passwd", "group", "shadow", "sudoers")


class Login:
    """The user ``h20-ops``. ``sudoers``: root's own file, "" = the user is not in it. ``docker``: member of the group ``docker``."""

    def __init__(self, sudoers: str = "", docker: bool = False) -> None:
        if not shutil.which("unshare") or not shutil.which("sudo"):
            pytest.skip("needs root, unshare and sudo")
        self.folder = Path(tempfile.mkdtemp(prefix="h20-login-", dir="/tmp"))  # the user must be able to walk to it
        self.folder.chmod(0o755)
        home = self.folder / "home"
        home.mkdir()
        shutil.chown(home, UID, UID)
        texts = {
            "passwd": f"{USER}:x:{UID}:{UID}::{home}:/bin/sh\n",
            "group": f"{USER}:x:{UID}:\nh20-docker:x:{DOCKER_GID}:{USER if docker else ''}\n",
            "shadow": f"{USER}:*:1::::::\n",
        }
        for name, text in texts.items():
            (self.folder / name).write_text(Path("/etc", name).read_text() + text)
        (self.folder / "shadow").chmod(0o600)
        self.allow(sudoers)
        mounts = "".join(f"mount --bind {self.folder}/{name} /etc/{name} && " for name in FILES)
        inside = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", f'{mounts}exec "$@"', "sh"]
        self.sshd = Sshd(self.folder / "sshd", inside=inside)
        (self.folder / "sshd").chmod(0o755)

    def allow(self, sudoers: str) -> None:
        """What root allows from now on."""
        path = self.folder / "sudoers"
        if not path.exists():
            path.touch(mode=0o440)
        with path.open("r+") as file:  # the same file: it is mounted
            file.truncate()
            file.write(f"Defaults secure_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n{sudoers}")

    def settings(self, **changes: object) -> SshSettings:
        """How to log in."""
        return self.sshd.settings(user=USER, **changes)

    def close(self) -> None:
        """End sshd and remove everything."""
        self.sshd.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
