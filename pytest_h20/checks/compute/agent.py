"""Runs in the engine's container before the engine does: the standard library and the image's own torch, Python 3.8 or newer.

Prints a line ``H20-BURN {json}`` for each thing it measured, as soon as it is measured; what kills it leaves what it had said.

``figure``: one GPU, one figure (``NAMES`` of ``facts.py``), in GB/s (1e9 bytes) or TFLOP/s (1e12 operations). ``pair``: from one GPU
into another one's memory, GB/s. ``exact``: a fixed product of two BF16 matrices, repeated; how many repeats differ in any bit, and a
digest of the first, which is the same on every sound GPU of one kind. ``memory``: a pattern written and read again. ``busy``: what
nvidia-smi said while matrices were multiplied. ``lost``: a part that could not be measured, and why. ``done``: the last line.

All GPUs work side by side, as they do under an engine; host links and pairs are measured one at a time first. One process drives all of
them: every call only queues work. Arguments: ``fast`` or ``full``.
"""
# It must run on the Python of any engine's image: no annotations.
# mypy: ignore-errors

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time

MARK = "H20-BURN "
GIB = 1 << 30
SECONDS = {
    "fast": {"memory": 0.5, "matrix": 2.0, "exact": 3.0, "link": 0.12},
    "full": {"memory": 5.0, "matrix": 20.0, "exact": 60.0, "link": 1.0},
}
"""How long one figure is measured, by kind."""
MOST_ROUNDS = 100
"""Queued at once: well below the depth at which a launch on one GPU would wait and hold up the others."""


LINK_TRIES, LINK_ALIKE, LINK_REST = 5, 0.9, 0.5
"""A host link below so much of the best one is measured again, so many times in all, so many seconds later. On six H200 one way of a GPU
reached half for a quarter of a second in 3 of 8 runs, and everything a moment later; a link that is slow stays slow."""


OVERHEAD = 10.0
"""Container, ``import torch``, memory patterns, all-reduce, and runs that do not count: of 20.0 s on two H100, 10.7 are the figures."""


def expected(how, gpus):
    """Seconds that it takes with so many GPUs: the parts of ``main`` in their order."""
    each = SECONDS[how]
    several = 2 * each["memory"] + gpus * (gpus - 1) * each["link"] if gpus > 1 else 0.0
    return 4 * each["memory"] + 2 * each["matrix"] + each["exact"] + 2 * gpus * each["link"] + several + OVERHEAD


def say(**fields):
    sys.stdout.write(MARK + json.dumps(fields) + "\n")
    sys.stdout.flush()


class ClockWatch:
    """nvidia-smi, twice a second, beside the work. Without it nothing is said about clocks."""

    FIELDS = "index,uuid,clocks.sm,power.draw,temperature.gpu,clocks_throttle_reasons.active"

    def __init__(self):
        self.rows = []
        self.process = None
        argv = ["nvidia-smi", "--query-gpu=" + self.FIELDS, "--format=csv,noheader,nounits", "-lms", "500"]
        try:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            say(lost="busy", why=f"nvidia-smi: {error}")
            return
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            words = [word.strip() for word in line.split(",")]
            if len(words) == 6:
                self.rows.append((time.monotonic(), words))

    def tell(self, places, spans):
        """``places``: torch's number of each GPU by UUID, or None. ``spans``: when matrices were multiplied."""
        if self.process is None:
            return
        self.process.terminate()
        found = {}
        for at, words in list(self.rows):
            if any(began <= at <= ended for began, ended in spans):
                gpu = places.get(words[1]) if places else (int(words[0]) if words[0].isdigit() else None)
                if gpu is not None:
                    found.setdefault(gpu, []).append(words)
        if not found:
            say(lost="busy", why="nvidia-smi said nothing while matrices were multiplied")
        for gpu, rows in sorted(found.items()):
            numbers = [[number(row[i]) for row in rows] for i in (2, 3, 4)]
            clocks, power, heat = ([x for x in column if x is not None] for column in numbers)
            reasons = 0
            for row in rows:
                try:
                    reasons |= int(row[5], 16)
                except ValueError:
                    continue
            say(
                busy=gpu,
                samples=len(rows),
                sm_mhz=statistics.median(clocks) if clocks else None,
                power_w=max(power) if power else None,
                temperature_c=max(heat) if heat else None,
                reasons=reasons,
            )


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


class Burn:
    def __init__(self, torch, how):
        self.torch = torch
        self.seconds = SECONDS[how]
        self.count = torch.cuda.device_count()
        self.all = list(range(self.count))
        self.spans = []

    def wait(self, gpus):
        for gpu in gpus:
            self.torch.cuda.synchronize(gpu)

    def timed(self, gpus, work, seconds, pick=statistics.median):
        """``work(gpu)`` over and over on these GPUs at once, for about so long. Seconds that one took, by GPU: ``pick`` of the batches
        (the median of what is sustained, the least of what flutters)."""
        torch = self.torch

        def rounds(count):
            events = {}
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    events[gpu] = [torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)]
                    events[gpu][0].record()
            for _ in range(count):
                for gpu in gpus:
                    with torch.cuda.device(gpu):
                        work(gpu)
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    events[gpu][1].record()
            self.wait(gpus)
            return {gpu: first.elapsed_time(last) / 1e3 / count for gpu, (first, last) in events.items()}

        rounds(1)
        once = max(rounds(2).values())
        count = max(3, min(MOST_ROUNDS, int(seconds / max(once, 1e-6))))
        found = []
        until = time.monotonic() + seconds
        while not found or time.monotonic() < until:
            found.append(rounds(count))
        return {gpu: pick([took[gpu] for took in found]) for gpu in gpus}

    def figure(self, name, gpus, work, amount, kind):
        """One figure of every GPU: ``amount`` per run, in 1e9 or 1e12."""
        pick = min if name in ("h2d", "d2h", "h2d_all", "d2h_all") else statistics.median
        for gpu, took in sorted(self.timed(gpus, work, self.seconds[kind], pick).items()):
            say(figure=name, gpu=gpu, value=amount / took)

    def part(self, name, function):
        """A part that fails does not take the others with it."""
        try:
            function()
        except Exception as error:  # whatever torch raises: it is told, and the part is missing
            say(lost=name, why=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}")
        for gpu in self.all:
            with self.torch.cuda.device(gpu):
                self.torch.cuda.empty_cache()

    def on_all(self, make):
        return [make(gpu) for gpu in self.all]

    # ------------------------------------------------------------------------------------------------------------ memory
    def memory(self):
        torch = self.torch
        size = 2 * GIB
        x = self.on_all(lambda gpu: torch.ones(size // 4, dtype=torch.float32, device=f"cuda:{gpu}"))
        y = self.on_all(lambda gpu: torch.empty_like(x[gpu]))
        self.figure("hbm_write", self.all, lambda gpu: y[gpu].fill_(2.0), size / 1e9, "memory")
        self.figure("hbm_read", self.all, lambda gpu: torch.sum(x[gpu]), size / 1e9, "memory")
        self.figure("hbm", self.all, lambda gpu: y[gpu].copy_(x[gpu]), 2 * size / 1e9, "memory")

    def pattern(self):
        """All memory but a rest for the libraries, with two patterns that are each other's opposite."""
        torch = self.torch
        for gpu in self.all:
            with torch.cuda.device(gpu):
                free = torch.cuda.mem_get_info(gpu)[0]
                blocks = [torch.empty(GIB // 4, dtype=torch.int32, device="cuda") for _ in range(max(0, free // GIB - 4))]
                wrong = torch.zeros((), dtype=torch.int64, device="cuda")
                for word in (0x5A5A5A5A, -0x5A5A5A5B):
                    for block in blocks:
                        block.fill_(word)
                    for block in blocks:
                        wrong += (block != word).sum()
                say(memory=gpu, gib=len(blocks), wrong=int(wrong.item()))
                del blocks

    # ---------------------------------------------------------------------------------------------------------- matrices
    def busy(self, function):
        began = time.monotonic()
        function()
        self.spans.append((began, time.monotonic()))

    def matrices(self, n, dtype):
        torch = self.torch
        return self.on_all(lambda gpu: torch.randn(n, n, device=f"cuda:{gpu}").to(dtype))

    def bf16(self):
        torch, n = self.torch, 8192
        a, b = self.matrices(n, torch.bfloat16), self.matrices(n, torch.bfloat16)
        c = self.on_all(lambda gpu: torch.empty_like(a[gpu]))
        self.figure("gemm_bf16", self.all, lambda gpu: torch.matmul(a[gpu], b[gpu], out=c[gpu]), 2 * n**3 / 1e12, "matrix")

    def fp8(self):
        torch, n = self.torch, 8192
        if torch.cuda.get_device_capability(0) < (8, 9):
            say(lost="gemm_fp8", why="these GPUs have no FP8", absent=True)
            return
        a, b = self.matrices(n, torch.float8_e4m3fn), self.matrices(n, torch.float8_e4m3fn)
        one = self.on_all(lambda gpu: torch.ones((), device=f"cuda:{gpu}"))

        def work(gpu):
            torch._scaled_mm(a[gpu], b[gpu].t(), scale_a=one[gpu], scale_b=one[gpu], out_dtype=torch.bfloat16, use_fast_accum=True)

        self.figure("gemm_fp8", self.all, work, 2 * n**3 / 1e12, "matrix")

    def fp32(self):
        torch, n = self.torch, 4096
        torch.backends.cuda.matmul.allow_tf32 = False
        a, b = self.matrices(n, torch.float32), self.matrices(n, torch.float32)
        c = self.on_all(lambda gpu: torch.empty_like(a[gpu]))
        self.figure("gemm_fp32", self.all, lambda gpu: torch.matmul(a[gpu], b[gpu], out=c[gpu]), 2 * n**3 / 1e12, "memory")

    def exact(self):
        """The same numbers on every GPU, made on the CPU; every repeat is compared with the first where it lies."""
        torch, n = self.torch, 4096
        torch.manual_seed(20)
        host = torch.randn(2, n, n).to(torch.bfloat16)
        a = self.on_all(lambda gpu: host[0].to(f"cuda:{gpu}"))
        b = self.on_all(lambda gpu: host[1].to(f"cuda:{gpu}"))
        first = self.on_all(lambda gpu: torch.matmul(a[gpu], b[gpu]).view(torch.int16))
        wrong = self.on_all(lambda gpu: torch.zeros((), dtype=torch.int64, device=f"cuda:{gpu}"))
        repeats, until = 0, time.monotonic() + self.seconds["exact"]
        while time.monotonic() < until:
            for _ in range(50):
                for gpu in self.all:
                    with torch.cuda.device(gpu):
                        wrong[gpu] += (torch.matmul(a[gpu], b[gpu]).view(torch.int16) != first[gpu]).any()
            repeats += 50
            self.wait(self.all)
        for gpu in self.all:
            with torch.cuda.device(gpu):
                words = first[gpu].to(torch.int64).flatten()
                places = torch.arange(1, words.numel() + 1, device="cuda", dtype=torch.int64)
                digest = int((words * (places % 65521)).sum().item())
                say(exact=gpu, repeats=repeats, wrong=int(wrong[gpu].item()), digest=f"{digest & (2**64 - 1):016x}")

    # ------------------------------------------------------------------------------------------------------------- links
    def host(self, near):
        """Pinned memory of the CPU that the GPU hangs on, one GPU at a time and then all of them."""
        torch, size = self.torch, 256 << 20
        before = os.sched_getaffinity(0)
        here = []
        for gpu in self.all:
            if near.get(gpu):
                with contextlib.suppress(OSError):  # a container that may use other CPUs only: the memory lies where it lies
                    os.sched_setaffinity(0, near[gpu])
            here.append(torch.empty(size, dtype=torch.uint8, pin_memory=True).fill_(1))
            os.sched_setaffinity(0, before)
        there = self.on_all(lambda gpu: torch.empty(size, dtype=torch.uint8, device=f"cuda:{gpu}"))

        def to(gpu):
            there[gpu].copy_(here[gpu], non_blocking=True)

        def back(gpu):
            here[gpu].copy_(there[gpu], non_blocking=True)

        works = {"h2d": to, "d2h": back}

        def measured(link):
            gpu, name = link
            return size / 1e9 / self.timed([gpu], works[name], self.seconds["link"], min)[gpu]

        for (gpu, name), value in steady([(gpu, name) for gpu in self.all for name in works], measured).items():
            say(figure=name, gpu=gpu, value=value)
        if self.count > 1:
            self.figure("h2d_all", self.all, to, size / 1e9, "memory")
            self.figure("d2h_all", self.all, back, size / 1e9, "memory")

    def pairs(self):
        torch, size = self.torch, 256 << 20
        mine = self.on_all(lambda gpu: torch.ones(size, dtype=torch.uint8, device=f"cuda:{gpu}"))
        into = self.on_all(lambda gpu: torch.empty(size, dtype=torch.uint8, device=f"cuda:{gpu}"))
        for source in self.all:
            for target in self.all:
                if source != target:

                    def work(gpu, target=target):
                        into[target].copy_(mine[gpu], non_blocking=True)

                    took = self.timed([source], work, self.seconds["link"], min)
                    peer = bool(torch.cuda.can_device_access_peer(target, source))
                    say(pair=[source, target], value=size / 1e9 / took[source], peer=peer)

    def all_reduce(self):
        torch, size = self.torch, 256 << 20
        from torch.cuda import nccl

        x = self.on_all(lambda gpu: torch.ones(size // 2, dtype=torch.bfloat16, device=f"cuda:{gpu}"))
        nccl.all_reduce(x)
        self.wait(self.all)
        wrong = sum(int((x[gpu] != self.count).sum().item()) for gpu in self.all)
        for gpu in self.all:
            x[gpu].zero_()  # sums of sums would overflow
        took = []
        for rounds in (5, 20, 20, 20):
            self.wait(self.all)
            began = time.perf_counter()
            for _ in range(rounds):
                nccl.all_reduce(x)
            self.wait(self.all)
            took.append((time.perf_counter() - began) / rounds)
        moved = size / 1e9 * 2 * (self.count - 1) / self.count
        say(all_reduce=moved / min(took[1:]), ranks=self.count, wrong=wrong, nccl=".".join(map(str, nccl.version())))


def steady(links, measured, rest=LINK_REST):
    """The best of each link; one that stands below the others is measured again a moment later."""
    best = {link: measured(link) for link in links}
    for _ in range(LINK_TRIES - 1):
        slow = [link for link in links if best[link] < LINK_ALIKE * max(best.values())]
        if not slow:
            break
        time.sleep(rest)
        best.update({link: max(best[link], measured(link)) for link in slow})
    return best


def near_cpus(buses):
    """CPUs of the socket that each GPU hangs on, by torch's number; {} where sysfs does not tell."""
    found = {}
    for gpu, bus in buses.items():
        domain, _, rest = bus.lower().partition(":")
        try:
            with open(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/local_cpulist") as file:
                cpus = set()
                for part in file.read().strip().split(","):
                    first, _, last = part.partition("-")
                    cpus |= set(range(int(first), int(last or first) + 1))
                found[gpu] = cpus
        except (OSError, ValueError):
            continue
    return found


def cards():
    """``uuid -> bus id`` as nvidia-smi tells them, in its order; [] without it."""
    argv = ["nvidia-smi", "--query-gpu=uuid,pci.bus_id", "--format=csv,noheader"]
    try:
        text = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [tuple(word.strip() for word in line.split(",")) for line in text.splitlines() if line.count(",") == 1]


def main(argv):
    began = time.monotonic()
    how = argv[1] if argv[1:] else "fast"
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    say(started=how, torch=torch.__version__, cuda=torch.version.cuda, gpus=count)
    if not count:
        say(done=True, seconds=round(time.monotonic() - began, 1))
        return 0
    watch = ClockWatch()
    burn = Burn(torch, how)
    listed = cards()
    known = {}
    for gpu in burn.all:
        uuid = getattr(torch.cuda.get_device_properties(gpu), "uuid", None)
        known[gpu] = f"GPU-{uuid}" if uuid else (listed[gpu][0] if len(listed) == count else "")
        say(card=gpu, name=torch.cuda.get_device_name(gpu), uuid=known[gpu])
    buses = dict(listed)
    near = near_cpus({gpu: buses[uuid] for gpu, uuid in known.items() if uuid in buses})
    burn.part("hbm", burn.memory)
    burn.part("gemm_bf16", lambda: burn.busy(burn.bf16))
    burn.part("gemm_fp8", lambda: burn.busy(burn.fp8))
    burn.part("gemm_fp32", burn.fp32)
    burn.part("exact", lambda: burn.busy(burn.exact))
    burn.part("memory", burn.pattern)
    burn.part("host_link", lambda: burn.host(near))
    if count > 1:
        burn.part("pairs", burn.pairs)
        burn.part("all_reduce", burn.all_reduce)
    watch.tell({uuid: gpu for gpu, uuid in known.items() if uuid}, burn.spans)
    say(done=True, seconds=round(time.monotonic() - began, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
