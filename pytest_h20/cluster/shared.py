"""Things that several xdist workers need and exactly one may make.

A folder of lock files and published results inside the run folder. ``flock`` is released by the kernel when a process
dies, so a killed worker never leaves a lock behind. Results are JSON, and only what this user wrote, and nobody else could
write, is read.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pytest_h20.cluster.codec import decode, encode
from pytest_h20.core.door import shown, shown_data
from pytest_h20.core.errors import H20Error
from pytest_h20.core.whole import write_whole

T = TypeVar("T")


@dataclass(frozen=True)
class Topic(Generic[T]):
    """One thing that the processes of a run tell each other: the name of its file, and the class of what stands there."""

    name: str
    kind: type


@dataclass(frozen=True)
class EngineTopic(Generic[T]):
    """As ``Topic``, one for every engine, or for every part of what is told of an engine."""

    name: str
    kind: type

    def __call__(self, label: str, part: str = "") -> Topic[T]:
        """That of the engine with this label (``sglang:tuned``)."""
        return Topic("-".join(filter(None, (self.name, part, key(label)))), self.kind)


@dataclass(frozen=True)
class Told(Generic[T]):
    """What was told: a value, or the reason why there is none."""

    value: T | None
    failed: str | None = None


def key(label: str) -> str:
    """The label of an engine as part of a file name."""
    return label.replace(":", "-")


class FailedElsewhere(H20Error):
    """What is needed was tried once, by another test or worker, and failed. Its text is the reason; it was told there."""


class Ended(H20Error):
    """The run ends: what was asked for is not started any more."""


class Shared:
    """Results and locks of one run, shared by its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[tuple[int, ...], Told[Any]]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _ours(folder, folder.lstat(), stat.S_ISDIR)

    def once(self, topic: Topic[T], make: Callable[[], T]) -> T:
        """The result of ``make``, made by whoever comes first, kept for everybody.

        When ``make`` raises, the first caller gets that exception and everybody after it gets ``FailedElsewhere`` with the same
        text: one failure is told once and never retried.
        """
        known = self.published(topic)
        if known is not None:
            return _taken(known)
        with self.exclusive(topic.name):
            known = self.published(topic)
            if known is not None:
                return _taken(known)
            try:
                value = make()
            except BaseException as error:
                # Not for KeyboardInterrupt and friends either: the other workers must not start what was just interrupted.
                self._publish(topic, False, shown(str(error)) or type(error).__name__)
                raise
            self.publish(topic, value)
            return value

    def published(self, topic: Topic[T]) -> Told[T] | None:
        """What was told there, or None. Raises ``H20Error`` for what no process of this run wrote.

        It is read once and read again when it was told anew, which is another file under that name.
        """
        path = self.path(topic)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise H20Error(f"{path}: cannot be read: {error.strerror}") from None
        with os.fdopen(handle, encoding="utf-8", errors="replace") as file:
            state = os.fstat(handle)
            _ours(path, state, stat.S_ISREG)
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
            known = self._read.get(path)
            if known is None or known[0] != stamp:
                known = self._read[path] = (stamp, _told(path, topic, decode(file.read())))
        return known[1]

    def value(self, topic: Topic[T]) -> T | None:
        """What was told there; None when nothing was, or a failure."""
        known = self.published(topic)
        return known.value if known is not None else None

    def path(self, topic: Topic[T]) -> Path:
        """The file that is there once something was told there."""
        return self._folder / f"{topic.name}.json"

    def publish(self, topic: Topic[T], value: T) -> None:
        """Publish a result over an earlier one."""
        self._publish(topic, True, shown(value) if isinstance(value, str) else value)

    def _publish(self, topic: Topic[T], ok: bool, value: object) -> None:
        text = encode([ok, value], clean=shown_data)  # the folder goes into a CI's artifacts with the rest of the run
        write_whole(self.path(topic), text)

    # ------------------------------------------------------------------ the end of all launches
    @contextmanager
    def launching(self) -> Iterator[None]:
        """Held while a container is made. Raises ``Ended`` once the tear-down has begun: nothing is made after that."""
        with self.together("launch"):
            if (self._folder / "ended").exists():
                raise Ended("the run is being taken down; nothing is started any more")
            yield

    def end_launches(self, seconds: float = 60.0, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """No process of this run makes a container from now on. Waits for those that are at it; False when they take too long.

        ``meanwhile`` is called while it waits, to end what they wait for.
        """
        try:
            os.close(os.open(self._folder / "ended", os.O_WRONLY | os.O_CREAT, 0o600))
            handle = os.open(self._folder / "launch.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # a full disk keeps nothing up; that others may still launch is said
            return False
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    meanwhile()
                    time.sleep(0.1)
        finally:
            os.close(handle)

    def mark(self, name: str) -> None:
        """Leave a word for the other processes; ``marked`` finds it."""
        os.close(os.open(self._folder / f"mark-{name}", os.O_WRONLY | os.O_CREAT, 0o600))

    def marked(self, name: str) -> bool:
        """Whether any process of this run left that word."""
        return (self._folder / f"mark-{name}").exists()

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


def _told(path: Path, topic: Topic[T], told: object) -> Told[T]:
    """What a file of this topic holds."""
    ok, found = told if isinstance(told, list) and len(told) == 2 else (None, None)
    fits = isinstance(found, topic.kind if ok else str)
    if ok is True and fits:
        return Told(found)
    if ok is False and fits:
        return Told(None, found)
    raise H20Error(f"{path}: cannot be read: it does not hold a {topic.kind.__name__}, nor the reason why there is none")


def _taken(known: Told[T]) -> T:
    if known.value is None:
        raise FailedElsewhere(str(known.failed))
    return known.value


def _ours(path: Path, seen: os.stat_result, kind: Callable[[int], bool]) -> None:
    """Raises ``H20Error`` for what another user made or could have written into: it would be believed."""
    if not kind(seen.st_mode):
        raise H20Error(f"{path}: is a link or something else that this run did not make; give another --h20-run-dir")
    if seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise H20Error(
            f"{path}: belongs to uid {seen.st_uid} with mode {stat.S_IMODE(seen.st_mode):04o}; only what uid {os.geteuid()} owns and "
            "nobody else can write is believed; give a --h20-run-dir of your own"
        )
