"""Known failures of two-node serving as data: what the log says, what it means, what to do, and where that was learnt.

``F01``–``F72`` are the entries of the project's failure catalogue (collected from engine sources and public threads);
"recorded" means that the line stands in a transcript taken from a real server.

How a table row is used (:mod:`pytest_h20.diagnosis.judge`):

* ``kind="cause"``: a root cause. ``fatal=True`` says that the line alone proves that this start is over; otherwise it
  names the cause only once something else proves the failure.
* ``kind="symptom"``: proves failure, never names a cause ("Failed core proc(s)").
* ``kind="wait"``: what a start that is neither ready nor failed is busy with.
* ``kind="hint"``: neither; worth showing beside a cause.

``rank`` orders causes found in one log: 10 = the mistake itself, 20 = the layer where it broke, 30 = a generic error,
40 = somebody waited in vain (the reason stands elsewhere), 50 = somebody ended the process. The lowest wins, then the
first line.
"""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.arguments import ARGUMENTS
from pytest_h20.diagnosis.signatures.cuda import CUDA
from pytest_h20.diagnosis.signatures.fabric import FABRIC
from pytest_h20.diagnosis.signatures.files import FILES
from pytest_h20.diagnosis.signatures.memory import MEMORY
from pytest_h20.diagnosis.signatures.network import PORTS, RENDEZVOUS
from pytest_h20.diagnosis.signatures.process import PROCESS
from pytest_h20.diagnosis.signatures.progress import HINTS, SYMPTOMS, WAITING
from pytest_h20.diagnosis.signatures.ray_cluster import RAY
from pytest_h20.diagnosis.signatures.row import Kind, Signature

__all__ = ["BY_ID", "FABRIC", "RAY", "SIGNATURES", "Kind", "Signature"]

SIGNATURES: tuple[Signature, ...] = (
    *ARGUMENTS,
    *FILES,
    *MEMORY,
    *PORTS,
    *RENDEZVOUS,
    *RAY,
    *FABRIC,
    *CUDA,
    *PROCESS,
    *SYMPTOMS,
    *WAITING,
    *HINTS,
)

BY_ID: dict[str, Signature] = {s.id: s for s in SIGNATURES}
