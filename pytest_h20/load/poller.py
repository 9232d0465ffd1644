"""epoll where the system has it, `selectors` elsewhere: one poll() that gives (file descriptor, events) pairs."""

from __future__ import annotations

import select
import selectors

READ, WRITE, BROKEN = 1, 4, 8 | 16  # the values of EPOLLIN, EPOLLOUT, EPOLLERR | EPOLLHUP


class SelectorPoller:
    """The same surface on kqueue, poll or select (a controller that is not Linux)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    @staticmethod
    def _mask(events: int) -> int:
        return (selectors.EVENT_READ if events & READ else 0) | (selectors.EVENT_WRITE if events & WRITE else 0)

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, self._mask(events))

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, self._mask(events))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(None if timeout < 0 else timeout)
        ]

    def close(self) -> None:
        self._selector.close()


if hasattr(select, "epoll"):
    Poller = select.epoll
else:  # pragma: no cover - not Linux
    Poller = SelectorPoller  # type: ignore[misc, assignment]
