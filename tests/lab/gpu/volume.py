"""What a collective of two ranks on two nodes puts on the wire over NCCL's socket transport: bytes that leave one node, as the counters of
its network interface tell them, headers and acknowledgements included.

Read in NCCL 2.28.9 (tag v2.28.9-1), the release that was measured (docs/measured.md):

* ``src/device/all_reduce.h``, ``runRing``: of S bytes a rank sends two messages of S/2 (rounded up to 16 bytes), whatever S is. The tree of
  two ranks sends S up and S down: one message a rank.
* ``src/device/prims_ll.h``, ``LLGenericOp``: LL sends a line of 16 bytes for 8 of data: 4 data, 4 flag, 4 data, 4 flag.
* ``src/device/prims_simple.h``, ``genericOp``: Simple cuts a chunk of the ring into two slices (``ALLREDUCE_CHUNKSTEPS`` /
  ``ALLREDUCE_SLICESTEPS``) of which a small chunk fills the first; the second is sent all the same, empty.
* ``src/transport/net_socket.cc``, ``ncclNetSocketTest``: every message is announced by 4 bytes in a write of their own, in which messages
  of up to 128 bytes (NCCL_SOCKET_INLINE) come along. A connection carries data one way, so acknowledgements travel alone.
"""

from __future__ import annotations

from typing import Literal

Protocol = Literal["LL", "Simple"]

HEADERS = 14 + 20 + 32
"""Bytes of a frame before its payload: Ethernet, IPv4, TCP with timestamps. A veth counts a large write as one frame."""
ANNOUNCED, INLINE = 4, 128


def message(size: int) -> int:
    """Bytes of one message of ``size``, and of an acknowledgement for each of its writes (the kernel may join some: then it is less)."""
    writes = 1 if size <= INLINE else 2
    return size + ANNOUNCED + 2 * writes * HEADERS


def _sent(data: int, protocol: Protocol) -> int:
    return -(-data // 8) * 16 if protocol == "LL" else data


def all_reduce(size: int, protocol: Protocol, *, tree: bool = False) -> int:
    """Of ``size`` bytes, small enough for one chunk."""
    if tree:
        return message(_sent(size, protocol))
    each = message(_sent(-(-size // 32) * 16, protocol))
    return 2 * (each if protocol == "LL" else each + message(0))


def all_gather(size: int) -> int:
    """Where each rank gives ``size`` bytes: by a ring with LL, as NCCL chooses it for few KiB (``src/graph/tuning.cc``: 6.6 + 5.0 us, the
    other candidate, PAT with Simple, 8.0 + 14 / 3.5 + 2 x 2.8 us)."""
    return message(_sent(size, "LL"))


def decoded_token(all_reduces: int, token_bytes: int, logits: int) -> int:
    """What one token costs that is generated alone: vLLM's all-reduces with LL, and the gathered logits, of which each rank gives
    ``logits`` bytes (vLLM's ``LogitsProcessor._gather_logits`` gathers half of the vocabulary from each of two
    ranks, in the model's dtype)."""
    return all_reduces * all_reduce(token_bytes, "LL") + all_gather(logits)
