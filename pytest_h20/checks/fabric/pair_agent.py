"""GPU memory through one HCA to the GPU of another node, by torch's own NCCL: where perftest has no CUDA.

    python pair_agent.py ADDRESS PORT RANK BACKEND GPU,HCA:PORT,GID_INDEX ...

Runs in the engine's image on both nodes (RANK 0 and 1), one process per pair, all pairs at once. NCCL may use this one HCA and nothing else
(``NCCL_NET=IB``: it ends in an error instead of going over sockets). Rank 1 prints one JSON line per pair.
"""

# It must run on the Python of any engine's image: no annotations.
# mypy: ignore-errors

import json
import os
import subprocess
import sys
import time

os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts

SIZE = 64 << 20
"""Bytes of a message."""


def start(argv):
    """A process for each pair; the worst exit status."""
    children = []
    for number, spec in enumerate(argv[5:]):
        gpu, hca, index = spec.split(",")
        env = dict(os.environ, H20_PAIR=str(number), H20_GPU=gpu, NCCL_IB_HCA="=" + hca, NCCL_NET="IB", NCCL_IB_DISABLE="0")
        if index:
            env["NCCL_IB_GID_INDEX"] = index
        children.append(subprocess.Popen([sys.executable, "-c", "import os; exec(os.environ['H20_SCRIPT'])", *argv[1:]], env=env))
    return max(abs(child.wait()) for child in children)


def pair(number, argv):
    """One pair: rank 0 sends."""
    import torch
    import torch.distributed as dist

    address, port, rank, backend = argv[1], int(argv[2]), int(argv[3]), argv[4]
    cuda = backend == "nccl"
    device = torch.device("cuda", int(os.environ["H20_GPU"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    dist.init_process_group(backend, init_method=f"tcp://{address}:{port + number}", rank=rank, world_size=2)
    size = SIZE if cuda else 1 << 20
    x = torch.ones(size, dtype=torch.uint8, device=device)
    best = None
    for count in (5, 50, 50, 50):
        dist.barrier()
        wait()
        began = time.perf_counter()
        for _ in range(count):
            if rank == 0:
                dist.send(x, 1)
            else:
                dist.recv(x, 0)
        wait()
        took = (time.perf_counter() - began) / count
        if count > 5:
            best = took if best is None else min(best, took)
    if rank == 1:  # what has arrived
        print(json.dumps({"pair": number, "gbps": size * 8 / best / 1e9}), flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(pair(int(os.environ["H20_PAIR"]), sys.argv) if "H20_PAIR" in os.environ else start(sys.argv))
