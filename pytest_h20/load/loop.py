"""The load loop: raw sockets, one epoll, a stamp on every piece of bytes, nothing parsed that can wait.

Why not an HTTP library: measured on two cores at 1,024 streams, aiohttp alone makes the mean TTFT 87 % too long and
httpx 515 %, because bytes are stamped when a coroutine gets its turn, not when they arrive. Here the only work between
`recv` and the next `recv` is a stamp, two list appends and a look at the piece; of a plain token, which the kernel has
stamped, only a number is kept (`wire.Skimmer`).

Connections are opened before the clock starts. A connection that the server closed between two requests is opened
again; the time for that is reported apart and not part of TTFT.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import math
import os
import socket
import ssl
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load.canary import Canary
from pytest_h20.load.clock import allow_files, cpu_seconds, no_collector_pauses, now, realtime_offset
from pytest_h20.load.http1 import CRLF2, ProtocolError, Response
from pytest_h20.load.poller import BROKEN, READ, WRITE, Poller
from pytest_h20.load.target import BaseUrl
from pytest_h20.load.wire import ONE_TOKEN, Piece, Run, Skimmer

OUTCOMES = {
    "ok": "complete, with as many tokens as were asked for",
    "short": "complete, with fewer tokens than asked for",
    "long": "complete, with more tokens than asked for",
    "uncounted": "complete, but the server told no token count",
    "http_error": "a status other than 200",
    "stream_error": "an error inside a 200 answer",
    "cut": "the answer ended before its finish reason",
    "reset": "the connection broke",
    "refused": "no connection could be opened",
    "timeout": "not complete at its deadline",
    "protocol": "not understood as HTTP or events",
    "cancelled": "unfinished when the cell ended",
    "not_sent": "never sent, the cell ended before",
}
"""Every request ends as exactly one of these."""

SO_TIMESTAMPNS, _TIMESPEC = 35, struct.Struct("qq")
_RECEIVE = 16384
_NAP_S, _NAP_STREAMS = 0.0005, 64
"""With kernel stamps nothing is lost by reading half a millisecond later, and many pieces are read for one wake-up: a
third of the CPU at 1,024 streams. A stream's next request leaves so much later, under 0.1 % of any request's duration.
Not in an open loop, where requests have their time, and not with few streams, where there is nothing to save."""
_KEPT_IDLE_S = 1.0
"""A connection idle for longer may have met the server's keep-alive limit (uvicorn: 5 s)."""


class TimedExchange:
    """One request and the recorded answer. Stamps are the clock of `clock.now`; 0.0 = did not happen."""

    __slots__ = (
        "asked",
        "canary",
        "connect_s",
        "deadline",
        "detail",
        "due",
        "end",
        "followup",
        "input_len",
        "kernel_stamps",
        "number",
        "outcome",
        "parts",
        "payload",
        "retried",
        "sent",
        "stamps",
        "status",
    )

    def __init__(
        self,
        number: int,
        payload: bytes,
        asked: int,
        input_len: int,
        followup: Callable[[TimedExchange], TimedExchange | None] | None = None,
        canary: Canary | None = None,
    ) -> None:
        self.number, self.payload, self.asked, self.input_len, self.followup = number, payload, asked, input_len, followup
        self.canary = canary
        self.due = self.sent = self.end = self.deadline = 0.0
        self.connect_s: float | None = None
        self.outcome = ""  # set by the loop when it is not for the parser to say
        self.detail = ""
        self.status = 0
        self.retried = False
        self.stamps: list[float] = []
        self.kernel_stamps: list[bytes] = []
        """With kernel stamps the loop only keeps the raw `struct timespec` of each piece; see `resolve`."""
        self.parts: list[Piece] = []

    @property
    def pieces(self) -> int:
        """How many have come."""
        return len(self.kernel_stamps) or len(self.stamps)

    def stamp(self, index: int, offset: float) -> float:
        """When one of its pieces came, clock of `clock.now`; `offset` as `realtime_offset`."""
        if not self.kernel_stamps:
            return self.stamps[index]
        seconds, nanoseconds = _TIMESPEC.unpack(self.kernel_stamps[index])
        whole = int(offset)
        return float(seconds - whole + (nanoseconds * 1e-9 - (offset - whole)))

    def resolve(self, offset: float) -> None:
        """Turn kernel stamps (CLOCK_REALTIME) into stamps of `clock.now`; `offset` as `realtime_offset`."""
        if self.kernel_stamps:
            whole = int(offset)  # in two steps: seconds since 1970 leave a float no room for microseconds
            part = offset - whole
            raw = array("q", b"".join(self.kernel_stamps))
            self.stamps = [(s - whole) + (ns * 1e-9 - part) for s, ns in zip(raw[::2], raw[1::2])]  # noqa: B905 - Python 3.8
            self.kernel_stamps = []


class Slot:
    """One connection."""

    __slots__ = (
        "before",
        "connect_at",
        "connected",
        "deadline",
        "exchange",
        "fd",
        "fed",
        "freed",
        "handshake",
        "number",
        "out",
        "quick",
        "response",
        "run",
        "served",
        "skim",
        "sock",
        "tokens",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: Any = None
        self.fd = -1
        self.exchange: TimedExchange | None = None
        self.response = Response()
        # The body is chunked, and so a piece can only end it that ends with CRLF CRLF or has less than four bytes (`0 CRLF CRLF`,
        # or a trailer line and CRLF CRLF, end it): no other piece is looked at.
        self.quick = False
        self.skim = False  # the next piece begins a chunk, and of a plain token only a number is wanted
        self.run: Run | None = None  # what is growing with every plain token
        self.tokens = 0  # after the last of them
        self.before = b""  # the last of them as it came
        self.fed = 0  # pieces of the exchange that `response` has seen
        self.out = b""
        self.connected = self.handshake = False
        self.connect_at = self.deadline = self.freed = 0.0
        self.served = 0


@dataclass
class CellProgress:
    """What a progress callback gets, about twice a second. Model time."""

    cell: str
    done: int
    total: int | None
    failed: int
    in_flight: int
    elapsed_s: float
    tokens_per_s: float
    left_s: float | None
    """Estimated time left, None before the first request is complete or when there is no total."""
    timed: int = 0
    """Requests that the two means below are taken over; with those of other client processes they are weighed by it."""
    ttft_ms: float | None = None
    """Mean until the first token, of the requests that have one. To look at while the cell runs; what is judged is measured apart."""
    tpot_ms: float | None = None
    """Mean between two tokens, of the same requests, as far as they have two."""


@dataclass
class LoopSettings:
    """Wall-clock seconds throughout."""

    concurrency: int
    request_timeout_s: float
    kind: str
    """The route: generate, completions or chat."""
    duration_s: float | None = None
    cell_timeout_s: float | None = None
    ramp_s: float = 0.0
    rest: Callable[[], float] | None = None
    """Closed loop: how long a stream rests after an answer before its next request. None = it never does."""
    offsets: Iterator[float] | None = None
    """Open loop: send times from the start. None = closed loop."""
    max_connections: int = 4096
    connect_timeout_s: float = 10.0
    kernel_stamps: bool = False
    verify_tls: bool = True
    ca_file: str | None = None
    metrics: tuple[BaseUrl, bytes] | None = None
    metrics_every_s: float = 1.0
    ended_file: str = ""
    """As `Target` has it."""
    gate: Callable[[], float] | None = None
    """Called when everything is ready to be sent; gives the common start of several client processes, clock of `clock.now`."""


@dataclass
class LoopOutcome:
    """What happened. `flight_area` is the time integral of requests in flight, kept while running and independent of
    the records: requests x seconds."""

    exchanges: list[TimedExchange] = field(default_factory=list)
    started: float = 0.0
    first_sent: float = 0.0
    ended: float = 0.0
    all_busy: float | None = None
    """When the last of the streams had sent its first request (closed loop)."""
    first_idle: float | None = None
    """When the first stream had nothing more to send (closed loop)."""
    flight_area: float = 0.0
    steady_area: float = 0.0
    peak_in_flight: int = 0
    connects: list[float] = field(default_factory=list)
    """Seconds of each connection opened before the clock."""
    reconnects: int = 0
    retries: int = 0
    max_lag_s: float = 0.0
    """Open loop: the latest send against its plan."""
    busy_loop_s: float = 0.0
    """The longest time the loop spent between two looks at the sockets."""
    cpu_s: float = 0.0
    offset: float = 0.0
    """See `TimedExchange.resolve`."""
    clock_steps: int = 0
    """How often the wall clock was found set, more than 1 ms against the monotonic one. Kernel stamps follow it."""
    metrics: list[tuple[float, bytes]] = field(default_factory=list)
    """When /metrics answered, and its text."""
    stopped: str = ""
    """Why the run ended early: "" | interrupted | cell_timeout | server_gone | duration."""
    not_sent: int = 0


class LoadLoop:
    """Runs one cell. `exchanges` gives the requests in order (lazily; it may be endless when a duration is set)."""

    def __init__(
        self,
        address: BaseUrl,
        exchanges: Iterator[TimedExchange],
        total: int | None,
        settings: LoopSettings,
        on_tick: Callable[[LoopOutcome, int, int, float], None] | None = None,
    ) -> None:
        self._address, self._source, self._total, self._settings = address, exchanges, total, settings
        self._on_tick = on_tick
        self.outcome = LoopOutcome()
        self._poller = Poller()
        self._slots: dict[int, Slot] = {}
        self._idle: deque[Slot] = deque()
        self._ready: deque[TimedExchange] = deque()  # encoded ahead of need, in idle moments
        self._exhausted = False
        self._late: deque[TimedExchange] = deque()  # open loop: due, waiting for a connection
        self._count = 0
        self._in_flight = 0
        self._flight_mark = 0.0
        self._failed = self._done = self._failures_in_row = 0
        self._again: deque[Slot] = deque()  # streams whose last request failed
        self._ramp: deque[float] = deque()
        self._resting: list[tuple[float, int, Slot]] = []  # heap: when, number, stream
        self._failed_connects: list[str] = []
        self._sending_over = False
        self._slot_number = 0
        self._tls: ssl.SSLContext | None = None
        self._families: list[tuple[int, Any]] = []
        self._metrics_slot: Slot | None = None
        self._metrics_due = 0.0
        self._offset = 0.0
        if address.tls:
            self._tls = _tls_context(settings)
        self._kernel = settings.kernel_stamps and self._tls is None and sys.platform == "linux"

    # ---- connections -------------------------------------------------------------------------------------------
    def _resolve(self, address: BaseUrl) -> list[tuple[int, Any]]:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise MeasurementError(f"{address.authority}: the name cannot be resolved: {error}") from None
        return [(entry[0], entry[4]) for entry in found]

    def _open_slot(self, deadline_from: float) -> Slot:
        """Begin to connect; completion is seen by the poller."""
        slot = Slot(self._slot_number)
        self._slot_number += 1
        self._connect(slot, self._families, deadline_from)
        return slot

    def _connect(self, slot: Slot, families: list[tuple[int, Any]], at: float) -> None:
        family, where = families[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._kernel:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        slot.sock, slot.fd = sock, sock.fileno()
        slot.connected = slot.handshake = slot.quick = slot.skim = False
        slot.served, slot.out = 0, b""
        slot.connect_at, slot.deadline = at, at + self._settings.connect_timeout_s
        self._slots[slot.fd] = slot
        self._poller.register(slot.fd, WRITE)
        error = sock.connect_ex(where)
        if error not in (0, errno.EINPROGRESS):
            self._connect_failed(slot, OSError(error, errno.errorcode.get(error, str(error))))

    def _connect_progress(self, slot: Slot) -> None:
        """The socket is writable (or readable, in a handshake) while it was not connected."""
        if not slot.handshake:
            error = slot.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._connect_failed(slot, OSError(error, errno.errorcode.get(error, str(error))))
                return
            if self._tls is not None:
                slot.sock = self._tls.wrap_socket(slot.sock, server_hostname=self._address.host, do_handshake_on_connect=False)
                slot.handshake = True
        if slot.handshake:
            try:
                slot.sock.do_handshake()
            except ssl.SSLWantReadError:
                self._poller.modify(slot.fd, READ)
                return
            except ssl.SSLWantWriteError:
                self._poller.modify(slot.fd, WRITE)
                return
            except OSError as failure:
                self._connect_failed(slot, failure)
                return
        slot.connected = True
        took = now() - slot.connect_at
        self._poller.modify(slot.fd, READ)
        if slot.exchange is None:
            self.outcome.connects.append(took)
            self._idle.append(slot)
        else:
            slot.exchange.connect_s = took
            self._transmit(slot, slot.exchange)

    def _connect_failed(self, slot: Slot, error: OSError) -> None:
        exchange = slot.exchange
        self._close(slot)
        kind = "timeout" if isinstance(error, TimeoutError) else "refused"
        if exchange is not None:
            self._settle(slot, exchange, kind, f"connect: {_os_text(error)}")
        else:
            self._failed_connects.append(_os_text(error))

    def _close(self, slot: Slot) -> None:
        if slot.fd < 0:
            return
        self._slots.pop(slot.fd, None)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self._poller.unregister(slot.fd)
        slot.sock.close()
        slot.fd = -1
        slot.connected = False

    def open(self) -> None:
        """Resolve, and for the closed loop open every connection. Raises MeasurementError when none can be opened."""
        self._families = self._resolve(self._address)
        count = self._settings.concurrency
        if self._total is not None:
            count = min(count, self._total)
        allowed = allow_files(count + 256)
        if count + 64 > allowed:
            raise UsageError(f"{count} connections need as many open files; the limit here is {allowed}: raise it (ulimit -n)")
        for family_number, family in enumerate(self._families):
            self._failed_connects.clear()
            chosen, self._families = self._families, [family]
            self._open_batch(count)
            if self._idle:
                break
            self._families = chosen
            if family_number + 1 == len(chosen):
                reason = self._failed_connects[0] if self._failed_connects else "no answer"
                raise MeasurementError(f"{self._address.authority}: no connection could be opened: {reason}")
        # Streams whose connection failed try again when their request is due; until then they count as idle.
        for _ in range(count - len(self._idle)):
            spare = Slot(self._slot_number)
            self._slot_number += 1
            self._idle.append(spare)

    def _open_batch(self, count: int) -> None:
        pending = 0
        begun = 0
        while begun < count or any(not slot.connected for slot in self._slots.values()):
            while begun < count and pending < 256:  # do not run over the server's listen queue
                self._open_slot(now())
                begun += 1
                pending += 1
            for fd, _ in self._poller.poll(0.05):
                slot = self._slots.get(fd)
                if slot is not None and not slot.connected:
                    self._connect_progress(slot)
            stamp = now()
            for slot in [s for s in self._slots.values() if not s.connected and s.deadline < stamp]:
                self._connect_failed(slot, TimeoutError("timed out"))
            pending = sum(1 for s in self._slots.values() if not s.connected)
            if self._failed_connects and not self._idle:
                for slot in [s for s in self._slots.values() if not s.connected]:
                    self._close(slot)
                return

    # ---- requests ----------------------------------------------------------------------------------------------
    def _next(self) -> TimedExchange | None:
        if self._ready:
            return self._ready.popleft()
        if self._exhausted:
            return None
        exchange = next(self._source, None)
        if exchange is None:
            self._exhausted = True
        return exchange

    def _stock_up(self, wanted: int) -> None:
        while len(self._ready) < wanted and not self._exhausted:
            exchange = next(self._source, None)
            if exchange is None:
                self._exhausted = True
            else:
                self._ready.append(exchange)

    def _account(self, stamp: float, change: int) -> None:
        outcome = self.outcome
        area = self._in_flight * (stamp - self._flight_mark)
        outcome.flight_area += area
        if outcome.all_busy is not None and outcome.first_idle is None:
            outcome.steady_area += area
        self._flight_mark = stamp
        self._in_flight += change
        if self._in_flight > outcome.peak_in_flight:
            outcome.peak_in_flight = self._in_flight

    def _send(self, slot: Slot, exchange: TimedExchange) -> None:
        """Give the exchange to a slot; the clock of the request starts with its first byte."""
        slot.exchange = exchange
        slot.response = Response()
        slot.quick = slot.skim = False
        slot.fed = 0
        self.outcome.exchanges.append(exchange)
        stamp = now()
        if not self.outcome.first_sent:
            self.outcome.first_sent = stamp
        exchange.deadline = stamp + self._settings.request_timeout_s
        self._account(stamp, 1)
        if slot.connected:
            self._transmit(slot, exchange)
        else:
            exchange.sent = stamp
            self.outcome.reconnects += 1
            self._connect(slot, self._families, stamp)

    def _transmit(self, slot: Slot, exchange: TimedExchange) -> None:
        payload = exchange.payload
        exchange.sent = now()
        try:
            sent = slot.sock.send(payload)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError as error:
            self._broken(slot, error)
            return
        if sent < len(payload):
            slot.out = payload[sent:]
            self._poller.modify(slot.fd, READ | WRITE)

    def _flush(self, slot: Slot) -> None:
        try:
            sent = slot.sock.send(slot.out)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self._broken(slot, error)
            return
        slot.out = slot.out[sent:]
        if not slot.out:
            self._poller.modify(slot.fd, READ)

    def _broken(self, slot: Slot, error: OSError | None) -> None:
        """The connection ended (error None: the server closed it in order)."""
        exchange = slot.exchange
        waited = exchange.sent - slot.freed if exchange is not None and slot.served else 0.0
        self._close(slot)
        if exchange is None:
            return  # an idle connection; it is opened again when it is needed
        if error is None and slot.response.close_delimited:
            self._settle(slot, exchange, "", "")
        elif not exchange.parts and waited > _KEPT_IDLE_S and not exchange.retried:
            # The server closed an idle connection just as we used it: RFC 9110 9.3.1 lets a client send again. On one
            # that was in use a moment before, it is a failure of the server and counts as one.
            exchange.retried = True
            self.outcome.retries += 1
            slot.response = Response()
            self._connect(slot, self._families, now())
        elif error is None:
            self._settle(slot, exchange, "cut", "the server closed the connection")
        else:
            self._settle(slot, exchange, "reset", _os_text(error))

    def _settle(self, slot: Slot, exchange: TimedExchange, outcome: str, detail: str) -> None:
        """The exchange is over; the slot takes the next one."""
        stamp = now()
        exchange.end = 0.0 if outcome else self._last_arrival(exchange)
        if not exchange.end:
            exchange.end = stamp
        exchange.outcome, exchange.detail = outcome, detail
        exchange.status = slot.response.status
        exchange.payload = b""
        slot.exchange = None
        slot.quick = slot.skim = False
        slot.served += 1
        slot.freed = stamp
        self._account(stamp, -1)
        self._done += 1
        if outcome or exchange.status != 200:
            self._failed += 1
            self._failures_in_row += 1
        else:
            self._failures_in_row = 0
        if slot.connected and not slot.response.keep_alive:
            self._close(slot)
        elif outcome and slot.connected:
            self._close(slot)  # whatever else comes on it belongs to the old request
        following = None
        if exchange.followup is not None and not outcome and exchange.status == 200 and not self._sending_over:
            following = exchange.followup(exchange)
        if following is not None:
            self._ready.appendleft(following)
        if self._settings.offsets is not None:
            self._idle.append(slot)
            if self._late and not self._sending_over:
                self._dispatch_late()
            return
        if outcome:
            self._again.append(slot)  # from the main loop: an answer that is refused at once must not recurse
        elif self._settings.rest is not None and not self._sending_over and (rest := self._settings.rest()) > 0:
            heapq.heappush(self._resting, (stamp + rest, slot.number, slot))
        else:
            self._take_next(slot)

    def _last_arrival(self, exchange: TimedExchange) -> float:
        return exchange.stamp(-1, self._offset) if exchange.pieces else 0.0

    def _set_offset(self, offset: float) -> None:
        self._offset = offset
        self.outcome.offset = offset

    def _take_next(self, slot: Slot) -> None:
        upcoming = None if self._sending_over else self._next()
        if upcoming is None:
            self._idle.append(slot)
            if self.outcome.first_idle is None:
                self.outcome.first_idle = now()
        else:
            self._send(slot, upcoming)

    def _read(self, slot: Slot) -> None:
        """Show `response` all pieces it has not seen: the last one may end the answer. What was skimmed is whole chunks."""
        exchange = slot.exchange
        assert exchange is not None
        fresh = [part for part in exchange.parts[slot.fed :] if isinstance(part, bytes)]
        slot.fed = len(exchange.parts)
        try:
            slot.response.feed(fresh[0] if len(fresh) == 1 else b"".join(fresh))
            over = slot.response.over()
        except ProtocolError as error:
            self._settle(slot, exchange, "protocol", str(error))
            return
        slot.quick = slot.response.chunks is not None
        # The head and the first event are always kept; a conversation's next turn and a canary need the text of all.
        plain = exchange.followup is None and exchange.canary is None
        slot.skim = self._kernel and plain and slot.response.between_chunks and len(exchange.parts) > 1
        slot.run, slot.tokens = None, 0
        if over:
            self._settle(slot, exchange, "", "")

    # ---- /metrics ----------------------------------------------------------------------------------------------
    def _metrics_step(self, stamp: float) -> None:
        """Ask for /metrics on a connection of its own when it is time."""
        settings = self._settings
        if settings.metrics is None:
            self._metrics_due = math.inf
            return
        self._metrics_due = stamp + settings.metrics_every_s
        slot = self._metrics_slot
        if slot is not None and slot.exchange is not None:
            return  # the last one is still out
        address, payload = settings.metrics
        if slot is None or not slot.connected:
            if slot is None:
                slot = self._metrics_slot = Slot(-1)
            exchange = TimedExchange(-1, payload, 0, 0)
            slot.exchange, slot.response, slot.quick = exchange, Response(), False
            families = self._families if (address.host, address.port) == (self._address.host, self._address.port) else None
            try:
                self._connect(slot, families or self._resolve(address), stamp)
            except MeasurementError:
                self._metrics_slot = None
            return
        slot.exchange, slot.response = TimedExchange(-1, payload, 0, 0), Response()
        self._transmit(slot, slot.exchange)

    def _metrics_event(self, slot: Slot, events: int) -> None:
        exchange = slot.exchange
        if not slot.connected:
            self._connect_progress_metrics(slot)
            return
        if events & WRITE:
            self._flush(slot)
        if not events & (READ | BROKEN):
            return
        try:
            data = slot.sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data or exchange is None:
            self._close(slot)
            slot.exchange = None
            return
        try:
            exchange.parts.append(slot.response.feed(data))
            over = slot.response.over()
        except ProtocolError:
            self._close(slot)
            slot.exchange = None
            return
        if over:
            if slot.response.status == 200:
                self.outcome.metrics.append((now(), b"".join(part for part in exchange.parts if isinstance(part, bytes))))
            else:
                self._settings.metrics = None
            slot.exchange = None
            if not slot.response.keep_alive:
                self._close(slot)

    def _connect_progress_metrics(self, slot: Slot) -> None:
        """As `_connect_progress`, without touching the streams' bookkeeping; /metrics is plain HTTP or the same TLS."""
        error = slot.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        address = self._settings.metrics[0] if self._settings.metrics else None
        if error or address is None or (address.tls and self._tls is None):
            self._close(slot)
            slot.exchange = None
            return
        if address.tls and self._tls is not None:
            if not slot.handshake:
                slot.sock = self._tls.wrap_socket(slot.sock, server_hostname=address.host, do_handshake_on_connect=False)
                slot.handshake = True
            try:
                slot.sock.do_handshake()
            except ssl.SSLWantReadError:
                self._poller.modify(slot.fd, READ)
                return
            except ssl.SSLWantWriteError:
                self._poller.modify(slot.fd, WRITE)
                return
            except OSError:
                self._close(slot)
                slot.exchange = None
                return
        slot.connected = True
        self._poller.modify(slot.fd, READ)
        if slot.exchange is not None:
            self._transmit(slot, slot.exchange)

    # ---- the run -----------------------------------------------------------------------------------------------
    def run(self) -> LoopOutcome:
        """Send everything and wait for it. KeyboardInterrupt passes through with `outcome` complete up to then."""
        settings, outcome = self._settings, self.outcome
        if settings.kernel_stamps:
            self._set_offset(realtime_offset())
        self._stock_up(settings.concurrency if settings.offsets is None else 64)
        if settings.gate is not None:
            _wait_until(settings.gate())
        cpu_before = cpu_seconds()
        outcome.started = self._flight_mark = now()
        try:
            with no_collector_pauses():
                if settings.offsets is None:
                    self._start_closed()
                self._loop()
        except KeyboardInterrupt:
            outcome.stopped = "interrupted"
            raise
        finally:
            self._wind_up(cpu_before)
        return outcome

    def _wind_up(self, cpu_before: float) -> None:
        outcome, stamp = self.outcome, now()
        outcome.cpu_s = cpu_seconds() - cpu_before
        self._account(stamp, 0)
        for slot in list(self._slots.values()):
            exchange = slot.exchange
            if exchange is not None and slot is not self._metrics_slot:
                exchange.end, exchange.outcome = stamp, exchange.outcome or "cancelled"
                exchange.status = slot.response.status
                slot.exchange = None
            self._close(slot)
        ends = [exchange.end for exchange in outcome.exchanges if exchange.outcome != "cancelled"]
        outcome.ended = max(ends) if ends else stamp
        if self._total is not None:
            outcome.not_sent = max(0, self._total - len(outcome.exchanges))
        self._poller.close()

    def _start_closed(self) -> None:
        """Give every stream its first request; with a ramp, one after another."""
        ramp = self._settings.ramp_s
        if ramp > 0:
            streams = len(self._idle)
            start = self.outcome.started
            self._ramp.extend(start + ramp * i / streams for i in range(streams))
            return
        while self._idle:
            exchange = self._next()
            if exchange is None:
                self.outcome.first_idle = self.outcome.first_idle or now()
                break
            self._send(self._idle.popleft(), exchange)
        self._account(now(), 0)
        self.outcome.all_busy = now()

    def _loop(self) -> None:
        settings, outcome = self._settings, self.outcome
        open_loop = settings.offsets is not None
        plan = settings.offsets
        next_due = next(plan, None) if plan is not None else None
        poll, slots = self._poller.poll, self._slots
        kernel = self._kernel
        stop_sending = outcome.started + settings.duration_s if settings.duration_s is not None else None
        hard_stop = outcome.started + settings.cell_timeout_s if settings.cell_timeout_s is not None else None
        housekeeping = tick = 0.0
        give_up = max(8, settings.concurrency)
        metrics_slot = self._metrics_slot
        self._metrics_due = outcome.started + min(0.2, settings.metrics_every_s)
        tls = self._tls is not None
        nap = kernel and not open_loop
        tokens_of = Skimmer(settings.kind).tokens
        looked = now()
        while True:
            stamp = now()
            if stamp - looked > outcome.busy_loop_s:
                outcome.busy_loop_s = stamp - looked
            # what is due
            if open_loop:
                while next_due is not None and not self._sending_over and outcome.started + next_due <= stamp:
                    exchange = self._next()
                    if exchange is None:
                        self._sending_over = True
                        break
                    exchange.due = outcome.started + next_due
                    self._late.append(exchange)
                    next_due = next(plan, None) if plan is not None else None
                if self._late:
                    self._dispatch_late()
                if not self._in_flight and not self._late and (next_due is None or self._sending_over):
                    return
            else:
                while self._ramp and self._ramp[0] <= stamp and self._idle:
                    self._ramp.popleft()
                    exchange = self._next() if not self._sending_over else None
                    if exchange is None:
                        self._ramp.clear()
                        break
                    self._send(self._idle.popleft(), exchange)
                    if not self._ramp:
                        self._account(now(), 0)
                        outcome.all_busy = now()
                if self._again:
                    if self._failures_in_row >= give_up:
                        self._end_sending("server_gone")
                    for _ in range(len(self._again)):
                        self._take_next(self._again.popleft())
                while self._resting and self._resting[0][0] <= stamp:
                    self._take_next(heapq.heappop(self._resting)[2])
                if not self._in_flight and not self._ramp and not self._again and not self._resting:
                    return
            if stamp >= housekeeping:
                housekeeping = stamp + 0.1
                if self._overdue(stamp, stop_sending, hard_stop, give_up):
                    return
                if stamp >= tick:
                    tick = stamp + 0.5
                    if self._server_ended():
                        return
                    if self._on_tick is not None:
                        self._on_tick(outcome, self._done, self._failed, stamp)
            if stamp >= self._metrics_due:
                self._metrics_step(stamp)
                metrics_slot = self._metrics_slot
            # how long nothing is due
            wait = 0.1
            if open_loop and next_due is not None and not self._sending_over:
                wait = min(wait, max(0.0, outcome.started + next_due - stamp - 0.001))  # epoll counts whole ms
            elif not open_loop and self._ramp:
                wait = min(wait, max(0.0, self._ramp[0] - stamp - 0.001))
            elif self._resting:
                wait = min(wait, max(0.0, self._resting[0][0] - stamp - 0.001))
            if len(self._ready) < settings.concurrency and not self._exhausted and not self._sending_over:
                found = poll(0)
                if not found:  # idle: encode a few requests ahead
                    self._stock_up(min(len(self._ready) + 4, settings.concurrency))
                    looked = now()
                    continue
            else:
                if nap and self._in_flight >= _NAP_STREAMS:
                    time.sleep(_NAP_S)
                found = poll(wait)
            looked = now()
            for fd, events in found:
                slot = slots.get(fd)
                if slot is None:
                    continue
                if kernel and slot.quick and events == READ:
                    # nearly all pieces go this way: the answer has begun and, by the quick test, does not end here
                    exchange = slot.exchange
                    try:
                        data, ancillary, _, _ = slot.sock.recvmsg(_RECEIVE, 32)
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        self._broken(slot, error)
                        continue
                    if data and exchange is not None:
                        exchange.kernel_stamps.append(ancillary[0][2] if ancillary else _timespec(time.time()))
                        if slot.skim:
                            expected = slot.tokens + 1
                            tokens = tokens_of(data, expected)
                            if not tokens:
                                exchange.parts.append(data)
                                self._read(slot)
                            elif slot.run is not None and (tokens == expected or tokens == ONE_TOKEN == slot.tokens):
                                slot.run.pieces += 1
                                slot.tokens = tokens
                                if data == slot.before:
                                    slot.run.same += 1
                                slot.before = data
                            else:
                                slot.run, slot.tokens, slot.before = Run(tokens), tokens, data
                                exchange.parts.append(slot.run)
                        else:
                            exchange.parts.append(data)
                            if data[-4:] == CRLF2 or len(data) < 4 or exchange.followup is None:
                                self._read(slot)
                    else:
                        self._broken(slot, None)
                    continue
                if slot is metrics_slot:
                    self._metrics_event(slot, events)
                    continue
                if not slot.connected:
                    self._connect_progress(slot)
                    continue
                if events & WRITE:
                    self._flush(slot)
                    if not events & (READ | BROKEN) or slot.fd < 0:
                        continue
                try:
                    if kernel:
                        data, ancillary, _, _ = slot.sock.recvmsg(_RECEIVE, 32)
                    else:
                        data = slot.sock.recv(_RECEIVE)
                        stamp = now()
                except (BlockingIOError, ssl.SSLWantReadError):
                    continue
                except OSError as error:
                    self._broken(slot, error)
                    continue
                exchange = slot.exchange
                if not data or exchange is None:
                    if data:
                        self._close(slot)
                    else:
                        self._broken(slot, None)
                    continue
                if kernel:
                    exchange.kernel_stamps.append(ancillary[0][2] if ancillary else _timespec(time.time()))
                else:
                    exchange.stamps.append(stamp)
                exchange.parts.append(data)
                if not slot.quick or slot.skim or data[-4:] == CRLF2 or len(data) < 4:
                    self._read(slot)
                if tls:
                    self._drain_tls(slot)

    def _drain_tls(self, slot: Slot) -> None:
        """Bytes that the TLS layer has already decrypted do not wake the poller again."""
        while slot.fd >= 0 and slot.connected and slot.sock.pending():
            exchange = slot.exchange
            try:
                data = slot.sock.recv(_RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError as error:
                self._broken(slot, error)
                return
            if not data or exchange is None:
                self._broken(slot, None)
                return
            stamp = now()
            exchange.stamps.append(stamp)
            exchange.parts.append(data)
            self._read(slot)

    def _dispatch_late(self) -> None:
        """Open loop: send what is due on an idle connection, or on a new one."""
        while self._late:
            if self._idle:
                slot = self._idle.popleft()
            elif len(self._slots) < self._settings.max_connections:
                slot = Slot(self._slot_number)
                self._slot_number += 1
            else:
                return
            exchange = self._late.popleft()
            self._send(slot, exchange)
            lag = now() - exchange.due
            if lag > self.outcome.max_lag_s:
                self.outcome.max_lag_s = lag

    def _end_sending(self, why: str) -> None:
        """What is in flight is waited for, nothing more is sent."""
        if not self._sending_over:
            self._sending_over = True
            self.outcome.stopped = why
            self._ready.clear()
            self._late.clear()
            self._ramp.clear()
            self._resting.clear()

    def _server_ended(self) -> bool:
        """It is known to have ended, though it may still hold its connections: what is in flight is not waited for."""
        if not self._settings.ended_file or not os.path.exists(self._settings.ended_file):
            return False
        self._end_sending("server_gone")
        for slot in self._slots.values():
            if slot.exchange is not None:
                slot.exchange.detail = "given up: the engine has ended"
        return True

    def _overdue(self, stamp: float, stop_sending: float | None, hard_stop: float | None, give_up: int) -> bool:
        """Deadlines; True ends the run."""
        outcome = self.outcome
        if stop_sending is not None and stamp >= stop_sending and not self._sending_over:
            self._end_sending("duration")
        if hard_stop is not None and stamp >= hard_stop:
            outcome.stopped = "cell_timeout"
            return True
        if self._failures_in_row >= give_up:
            self._end_sending("server_gone")
        if self._settings.kernel_stamps:
            offset = realtime_offset(5)
            if abs(offset - self._offset) > 1e-3:
                outcome.clock_steps += 1
                self._set_offset(offset)
        for slot in list(self._slots.values()):
            if slot is self._metrics_slot:
                continue
            exchange = slot.exchange
            if exchange is not None and exchange.deadline < stamp:
                self._close(slot)
                self._settle(slot, exchange, "timeout", f"not complete after {self._settings.request_timeout_s:g} s")
            elif not slot.connected and slot.deadline < stamp:
                self._connect_failed(slot, TimeoutError("timed out"))
        return False


def _tls_context(settings: LoopSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_file {settings.ca_file!r}: {error}") from None
    if not settings.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _os_text(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _timespec(seconds: float) -> bytes:
    return _TIMESPEC.pack(int(seconds), int(seconds % 1 * 1e9))


def _wait_until(at: float) -> None:
    while True:
        left = at - now()
        if left <= 0:
            return
        time.sleep(left if left > 0.002 else 0.0002)
