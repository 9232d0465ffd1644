"""Is a log one of the processes that run now?

A process id alone proves nothing: a container that is started again gives the same ids again, and any other process of the node may
have the number by now. A log belongs to a process that runs when the process has that id in its own namespace and still has the file
open; or, where a log was caught from standard output, when the process had started before the log was written last and the
communicator that the log tells of lies in memory that the process has mapped.
"""

from __future__ import annotations

import time

from pytest_h20.probes.log_owners import Claim, LogOwners
from pytest_h20.probes.script import Missing

CLOCK_SLACK_S = 5
"""Start times are whole seconds counted from a boot time that is computed anew from the clock each time it is read."""


def why_not(claim: Claim, told: LogOwners | Missing, *, trusted: bool = False) -> str:
    """Why the log is not taken for one of the processes that run now; empty when it is one of theirs.

    ``trusted``: it lies in a folder that only our own containers write, and these run: then processes that may not be looked at are
    enough, those that ended are not.
    """
    if isinstance(told, Missing):
        return f"whether its processes run could not be asked: {told.reason}"
    if not claim.pids:
        return "it holds no line of an NCCL process"
    file = told.files.get(claim.path)
    for pid, addresses in claim.pids.items():
        mine = [o for o in told.owners if o.pids[-1] == pid]
        if not mine:
            return f"its process {pid} does not run any more" + ("" if told.namespaces else " (this kernel tells no ids inside containers)")
        wanted = {a.removeprefix("0x") for a in addresses}
        if any(file is not None and file.identity in o.open for o in mine):
            continue
        if file is None:
            return "the file is not there any more"
        young = [o for o in mine if o.started > file.written + CLOCK_SLACK_S]
        if len(young) == len(mine):
            return f"process {pid} was started {_when(young[0].started)}, after the log was written last ({_when(file.written)})"
        old = [o for o in mine if o not in young]
        if any(wanted & o.mapped for o in old) or (trusted and not any(o.seen for o in old)):
            continue
        if not any(o.seen for o in old):
            return f"whether process {pid} (on the node {old[0].pids[0]}) wrote it could not be seen: log in as root or the engine's user"
        return f"process {pid} (on the node {old[0].pids[0]}) neither has the file open nor the communicators that it tells of"
    return ""


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
