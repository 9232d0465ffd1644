"""Things that several xdist workers need and exactly one may make.

A folder of lock files and published results inside the run folder. ``flock`` is released by the kernel when a process
dies, so a killed worker never leaves a lock behind. Results are JSON, and only what this user wrote, and nobody else could
write, is read.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pytest_h20.cluster.codec import decode, encode
from pytest_h20.errors import H20Error

T = TypeVar("T")


class FailedElsewhere(H20Error):
    """What is needed was tried once, by another test or worker, and failed. Its text is the reason; it was told there."""


class Shared:
    """Results and locks of one run, shared by its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _ours(folder, folder.lstat(), stat.S_ISDIR)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """The result of ``make``, made by whoever comes first, kept for everybody.

        When ``make`` raises, the first caller gets that exception and everybody after it gets ``FailedElsewhere`` with the same
        text: one failure is told once and never retried.
        """
        if key in self._mine:
            found: T = self._mine[key]
            return found
        with self.exclusive(key):
            known = self.published(key)
            if known is not None:
                taken: T = self._take(key, known)
                return taken
            try:
                value = make()
            except BaseException as error:
                # Not for KeyboardInterrupt and friends either: the other workers must not start what was just interrupted.
                self._publish(key, (False, str(error) or type(error).__name__))
                raise
            self._publish(key, (True, value))
            self._mine[key] = value
            return value

    def published(self, key: str) -> tuple[bool, Any] | None:
        """What was published under a key: (True, value), (False, reason), or None."""
        path = self._folder / f"{key}.json"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise H20Error(f"{path}: cannot be read: {error.strerror}") from None
        with os.fdopen(handle, encoding="utf-8", errors="replace") as file:
            _ours(path, os.fstat(handle), stat.S_ISREG)
            ok, value = decode(file.read())
        return bool(ok), value

    def _take(self, key: str, known: tuple[bool, Any]) -> Any:
        ok, value = known
        if not ok:
            raise FailedElsewhere(str(value))
        self._mine[key] = value
        return value

    def _publish(self, key: str, value: tuple[bool, Any]) -> None:
        path = self._folder / f"{key}.json"
        text = encode(list(value))
        partial = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Alone: nobody holds the same lock, shared or exclusive."""
        with self._lock(name, fcntl.LOCK_EX):
            yield

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Together with others that hold it so, never beside an exclusive one."""
        with self._lock(name, fcntl.LOCK_SH):
            yield

    @contextmanager
    def _lock(self, name: str, how: int) -> Iterator[None]:
        handle = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


def _ours(path: Path, seen: os.stat_result, kind: Callable[[int], bool]) -> None:
    """Raises ``H20Error`` for what another user made or could have written into: it would be believed."""
    if not kind(seen.st_mode):
        raise H20Error(f"{path}: is a link or something else that this run did not make; give another --h20-run-dir")
    if seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise H20Error(
            f"{path}: belongs to uid {seen.st_uid} with mode {stat.S_IMODE(seen.st_mode):04o}; only what uid {os.geteuid()} owns and "
            "nobody else can write is believed; give a --h20-run-dir of your own"
        )
