"""What the ranks of the stand-in look like from outside when they hang."""

from __future__ import annotations

from dataclasses import dataclass

RANKS, PER_NODE = 16, 8


@dataclass
class HangTruth:
    """``behind``: the rank that never entered the last collective (None: all are in it). ``ras_crashes``: NCCL's RAS ends the job when
    it is asked. ``operation``: number of the last collective."""

    behind: int | None = None
    ras_crashes: bool = False
    operation: int = 1204

    def stacks(self, node: int) -> str:
        """The script's output in the container of this node (0: head)."""
        return "".join(self._process(rank) for rank in range(node * PER_NODE, (node + 1) * PER_NODE))

    def _process(self, rank: int) -> str:
        frame = (
            "forward (sglang/srt/models/deepseek_v2.py:1421)"
            if rank == self.behind
            else "all_reduce (torch/distributed/distributed_c10d.py:2810)"
        )
        return (
            f"== process {700 + rank}\nName:\tpt_main_thread\nState:\tS (sleeping)\nThreads:\t241\ncommand sglang::scheduler_TP{rank}\n"
            f'wchan futex_wait_queue\n-- python\nThread {700 + rank} (idle): "MainThread"\n    {frame}\n'
        )

    def gpus(self) -> str:
        """nvidia-smi on a node: a collective that waits keeps a GPU busy."""
        return "".join(f"{gpu}, 100, 141.20, 1980, 90412\n" for gpu in range(PER_NODE)) + "== apps\n"

    def report(self) -> str:
        """NCCL's RAS, asked twice. Of ranks that are alike it says nothing."""
        told = ""
        if self.behind is not None:
            told = (
                f"  {RANKS - 1} ranks have launched up to operation {self.operation}\n  Rank {self.behind} has launched up to operation "
                f"{self.operation - 1} -- GPU {self.behind % PER_NODE} managed by process {700 + self.behind} on node 10.0.0.1\n"
            )
        table = f"      0         1         2         8        {RANKS}        {RANKS}   RUNNING  MISMATCH\n"
        return "".join(f"== ras {i}\n{table}\n{told}\n" for i in range(2))
