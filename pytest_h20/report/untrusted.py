"""Folders of runs lie where others may write: a run folder that somebody planted, and a folder for runs that somebody made first.

What is read as a record is a regular file at that very place, of a size that a record has. A link would show any file of whoever
reads (as root: every file), a pipe would never end, and a sparse file of a terabyte would fill the memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pytest_h20.core.errors import UsageError

MOST_OF_A_RECORD = 1 << 30
"""Bytes. The lines of a run have some MiB, the requests of its largest cell some hundred."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file, open for reading. Raises ``OSError`` for what is no regular file or larger than any record."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, and not followed", str(path)) from None
        raise
    with os.fdopen(handle, "rb") as file:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device and no file", str(path))
        if seen.st_size > MOST_OF_A_RECORD:
            raise OSError(errno.EFBIG, f"has {seen.st_size >> 20} MiB, more than any record of a run", str(path))
        yield file


def text(path: Path, errors: str = "strict") -> str:
    """A record's text. Raises ``OSError``, and ``UnicodeDecodeError`` unless ``errors`` says otherwise."""
    with opened(path) as file:
        return file.read().decode("utf-8", errors).replace("\r\n", "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; of what is no record, the reason in words, which no hash is equal to."""
    digest = hashlib.sha256()
    try:
        with opened(path) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        return error.strerror or str(error)
    return digest.hexdigest()


def refuse_foreign(base: Path) -> None:
    """Raises ``UsageError`` for a folder of runs in which somebody else could put a folder of theirs in the place of ours: everything
    that this run writes from then on would go where they want, with this user's rights."""
    seen = base.stat()
    who = os.geteuid()
    others = seen.st_mode & stat.S_IWOTH or (seen.st_mode & stat.S_IWGRP and seen.st_gid != os.getegid())
    if seen.st_uid not in (0, who):
        problem = f"belongs to uid {seen.st_uid}, and this is uid {who}"
    elif others and not seen.st_mode & stat.S_ISVTX:
        problem = f"can be written by others (mode {stat.S_IMODE(seen.st_mode):04o}, group {seen.st_gid})"
    else:
        return
    raise UsageError(
        f"{base}: {problem}: a run's folder in it could be exchanged for another one while the run writes; give a --h20-run-dir of your "
        f"own, for example {base / 'mine'}, or close this one: chmod go-w, or chmod +t for a folder that several people share"
    )
