"""How far are a load generator's figures from the truth, and what do they cost?

Runs ours and both of sglang's clients, `bench_serving` (Python, aiohttp) and `sglang-bench` (Rust, Tokio), one after the
other against the built-in reference server, which records its own send stamps. Sglang's are its own files, fetched from
PyPI into a temporary directory and never kept. Prints for each number of streams: relative error of mean TTFT, mean TPOT
and output throughput, client CPU per 1,000 output tokens, and time from starting the program to its first measured request.

    python benchmarks/load_fidelity.py                       # 1, 64, 256 and 1,024 streams
    python benchmarks/load_fidelity.py --streams 64 --ours-only
    python benchmarks/load_fidelity.py --search              # highest rate with all errors below 2 %

Errors are against the server's truth of the same run: a server that was itself starved of CPU is slower in truth too.
What the first of bench_serving's needs (`transformers`, the engine) is replaced by stand-ins of a few lines: none of them
is on the path of a token. CPU is that of the measured part for ours and bench_serving, of the call that makes prompts,
sends and reports for the Rust client, which gives no other. Needs two free cores to mean anything; the load average is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_h20.load.prompts import WORDS  # noqa: E402
from pytest_h20.load.reference import ReferenceConfig, ReferenceProcess  # noqa: E402

SGLANG = "sglang==0.5.23"
NEEDS = ("aiohttp", "msgspec", "numpy", "requests", "tqdm", "pybase64", "pillow", "orjson")
INPUT = 128

# Runs bench_serving's own code with stand-ins for what it imports beside it, and notes its CPU time.
DRIVER = '''
import importlib.machinery, json, sys, time, types
out, words = sys.argv.pop(1), None

class Anything:
    def __init__(self, *args, **kwargs): pass

class Tokenizer:
    """Splits at blanks: the reference server counts words too."""
    vocab_size, init_kwargs, eos_token, bos_token = 32000, {}, None, None
    @classmethod
    def from_pretrained(cls, *args, **kwargs): return cls()
    def num_special_tokens_to_add(self, *args): return 0
    def encode(self, text, add_special_tokens=False): return text.split()
    def decode(self, ids, **kwargs): return " ".join(map(str, ids))

def module(name, **members):
    made = types.ModuleType(name)
    made.__path__ = []
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(members)
    sys.modules[name] = made

module("transformers", AutoTokenizer=Tokenizer, AutoProcessor=Anything, PreTrainedTokenizerBase=Anything,
       PreTrainedTokenizer=Anything, PreTrainedTokenizerFast=Anything)
module("datasets", load_dataset=None)
module("sglang.srt")
module("sglang.srt.disaggregation")
module("sglang.srt.disaggregation.utils", FAKE_BOOTSTRAP_HOST="")
module("sglang.srt.utils")
def base(url, host, port): return url or f"http://{host}:{port}"
module("sglang.srt.utils.network", resolve_base_url=base, resolve_host_port=base)
from sglang.benchmark import serving
run = serving.benchmark
async def timed(*args, **kwargs):
    before = time.process_time()
    try:
        return await run(*args, **kwargs)
    finally:
        json.dump({"cpu_s": time.process_time() - before}, open(out, "w"))
serving.benchmark = timed
serving.cli_main()
'''

# The extension module that sglang's wheel carries, called as its own command line calls it.
RUST_DRIVER = """
import json, os, sys, time
out = sys.argv.pop(1)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "rust"))
import _bench
before = time.process_time()
try:
    _bench.run_argv(["sglang-bench", *sys.argv[1:]])
finally:
    json.dump({"cpu_s": time.process_time() - before}, open(out, "w"))
"""


@dataclass(frozen=True)
class Run:
    """One run of one client. Errors are relative (0.01 = 1 %), the rest seconds, tokens and MB."""

    client: str
    streams: int
    ttft: float
    tpot: float
    throughput: float
    cpu_per_1000: float
    start_s: float
    server_lag_s: float
    tokens_per_s: float


class Sglang:
    """Its clients' files under `directory`, with an environment of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = directory / "venv" / "bin" / "python"

    def prepare(self) -> None:
        """Fetch the wheel (its files only, none of its requirements) and the small libraries that its client uses."""
        subprocess.run([sys.executable, "-m", "venv", str(self.directory / "venv")], check=True)
        pip = [str(self.python), "-m", "pip", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *NEEDS], check=True)
        subprocess.run([*pip, "download", "--no-deps", "-d", str(self.directory), SGLANG], check=True)
        wheel = next(self.directory.glob("sglang-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("sglang/benchmark/") and name.endswith(".py"):
                    archive.extract(name, self.directory / "lib")
                elif name.startswith("sglang/srt/rust_extensions/_bench."):
                    (self.directory / "rust").mkdir(exist_ok=True)
                    (self.directory / "rust" / Path(name).name).write_bytes(archive.read(name))
        wheel.unlink()
        (self.directory / "lib" / "sglang" / "__init__.py").write_text("")
        (self.directory / "driver.py").write_text(DRIVER)
        (self.directory / "rust_driver.py").write_text(RUST_DRIVER)
        texts = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(40)) for i in range(4000)]
        rows = [{"conversations": [{"value": f"p{i} {text}"}, {"value": "yes"}]} for i, text in enumerate(texts)]
        (self.directory / "sharegpt.json").write_text(json.dumps(rows))

    def figures(self) -> dict[str, float]:
        row = json.loads((self.directory / "out.jsonl").read_text().splitlines()[-1])
        cpu = json.loads((self.directory / "cpu.json").read_text())["cpu_s"]
        return {
            "ttft": row["mean_ttft_ms"] / 1e3,
            "tpot": row["mean_tpot_ms"] / 1e3,
            "cpu": cpu,
            "throughput": row["output_throughput"],
            "tokens": row["total_output_tokens"],
        }

    def _asked(self, url: str, streams: int, output: int) -> list[str]:
        host, _, port = url.removeprefix("http://").partition(":")
        out = self.directory / "out.jsonl"
        for name in (out, self.directory / "cpu.json"):
            name.unlink(missing_ok=True)
        return [
            "--backend",
            "sglang",
            "--host",
            host,
            "--port",
            port,
            "--model",
            "reference",
            "--random-input-len",
            str(INPUT),
            "--random-output-len",
            str(output),
            "--random-range-ratio",
            "1.0",
            "--num-prompts",
            str(streams),
            "--max-concurrency",
            str(streams),
            "--warmup-requests",
            "0",
            "--disable-tqdm",
            "--output-file",
            str(out),
        ]


class BenchServing(Sglang):
    """The Python client."""

    def command(self, url: str, streams: int, output: int) -> list[str]:
        return [
            str(self.python),
            str(self.directory / "driver.py"),
            str(self.directory / "cpu.json"),
            *self._asked(url, streams, output),
            "--dataset-name",
            "random",
            "--dataset-path",
            str(self.directory / "sharegpt.json"),
        ]


class RustClient(Sglang):
    """The Rust client, with as many worker threads as it takes by itself. Prompts are token ids, as ours."""

    def command(self, url: str, streams: int, output: int) -> list[str]:
        return [
            str(self.python),
            str(self.directory / "rust_driver.py"),
            str(self.directory / "cpu.json"),
            *self._asked(url, streams, output),
            "--dataset-name",
            "random-ids",
            "--tokenize-prompt",
            "--vocab-size",
            "32000",
            "--disable-retokenize",
        ]


class Ours:
    """Our command line, as a user runs it."""

    def __init__(self, directory: Path, dialect: str, processes: int, kernel: bool) -> None:
        self.out, self.dialect, self.processes, self.kernel = directory / "ours.json", dialect, processes, kernel

    def command(self, url: str, streams: int, output: int) -> list[str]:
        self.out.unlink(missing_ok=True)
        stamps = [] if self.kernel else ["--user-stamps"]
        return [
            sys.executable,
            "-m",
            "pytest_h20.load.cli",
            "--url",
            url,
            "--dialect",
            self.dialect,
            "--model",
            "reference",
            "--vocab-size",
            "32000",
            "--concurrency",
            str(streams),
            "--requests",
            str(streams),
            "--input",
            str(INPUT),
            "--output",
            str(output),
            "--warmup",
            "0",
            "--no-selfcheck",
            "--quiet",
            "--processes",
            str(self.processes),
            "--json",
            str(self.out),
            *stamps,
        ]

    def figures(self) -> dict[str, float]:
        row = json.loads(self.out.read_text())["results"][0]
        return {
            "ttft": row["ttft"]["mean"] / 1e3,
            "tpot": row["tpot"]["mean"] / 1e3,
            "cpu": row["client"]["cpu_s"],
            "throughput": row["whole"]["output_tokens_per_s"],
            "tokens": row["tokens"]["output"],
        }


def measure(name: str, client: BenchServing | RustClient | Ours, server: ReferenceProcess, streams: int, output: int) -> Run:
    """One run and its truth. Raises RuntimeError with the client's words when it gave no figures."""
    environment = dict(os.environ, PYTHONPATH=f"{ROOT}" if isinstance(client, Ours) else str(client.directory / "lib"))
    command = client.command(server.url, streams, output)
    server.reset()
    begun = time.perf_counter()  # the reference server stamps with the same clock
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, env=environment, stdout=words, stderr=subprocess.STDOUT)
        process.wait()
        try:
            figures = client.figures()
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            words.seek(0)
            tail = words.read().decode("utf-8", "replace")[-1500:]
            raise RuntimeError(f"{name} at {streams} streams gave no figures (exit {process.returncode}):\n{tail}") from None
    truth = server.truth()
    rows = [row for row in truth["rows"] if row["sent"] == output and not row["fault"]]
    if len(rows) < streams:
        raise RuntimeError(f"{name} at {streams} streams: the server completed {len(rows)} requests")
    rows = rows[-streams:]  # a client may have asked something before
    span = max(row["last"] for row in rows) - min(row["received"] for row in rows)
    true_rate = sum(row["sent"] for row in rows) / span
    return Run(
        client=name,
        streams=streams,
        ttft=figures["ttft"] / statistics.fmean(row["ttft"] for row in rows) - 1,
        tpot=figures["tpot"] / statistics.fmean(row["tpot"] for row in rows) - 1,
        throughput=figures["throughput"] / true_rate - 1,
        cpu_per_1000=1e3 * figures["cpu"] / figures["tokens"],
        start_s=min(row["received"] for row in rows) - begun,
        server_lag_s=truth["summary"]["max_send_lag"],
        tokens_per_s=true_rate,
    )


def median(runs: list[Run]) -> Run:
    first = runs[0]
    names = ("ttft", "tpot", "throughput", "cpu_per_1000", "start_s", "server_lag_s", "tokens_per_s")
    values: dict[str, Any] = {name: statistics.median(getattr(run, name) for run in runs) for name in names}
    return Run(first.client, first.streams, **values)


HEADER = (
    "| client | streams | TTFT error % | TPOT error % | throughput error % | CPU s per 1,000 tokens | start to first request s "
    "| server's own lag ms |\n|---|---|---|---|---|---|---|---|"
)


def row_text(run: Run) -> str:
    return (
        f"| {run.client} | {run.streams} | {100 * run.ttft:+.2f} | {100 * run.tpot:+.3f} | {100 * run.throughput:+.3f} "
        f"| {run.cpu_per_1000:.4f} | {run.start_s:.2f} | {1e3 * run.server_lag_s:.1f} |"
    )


def search(client: Ours, server: ReferenceProcess, streams: int, limit: float = 0.02) -> None:
    """Raise the rate until an error exceeds `limit`, or the server itself no longer keeps its schedule."""
    print(f"search at {streams} streams, errors below {100 * limit:g} %:")
    tpot, best = 0.020, None
    while True:
        server.configure(tpot=tpot)
        output = max(64, min(512, int(3.0 / tpot)))
        run = measure("ours", client, server, streams, output)
        worst = max(abs(run.ttft), abs(run.tpot), abs(run.throughput))
        wanted = streams / tpot
        print(
            f"  asked {wanted:9,.0f} tok/s, sent {run.tokens_per_s:9,.0f}, worst error {100 * worst:.2f} %, "
            f"CPU {run.cpu_per_1000:.4f} s per 1,000",
            flush=True,
        )
        if worst > limit:
            break
        if best is None or run.tokens_per_s > best.tokens_per_s:
            best = run
        if run.tokens_per_s < 0.7 * wanted:
            print("  the reference server cannot send faster on this machine: its limit, not the client's")
            break
        tpot /= 1.5
    if best is not None:
        print(f"highest rate with all errors below {100 * limit:g} %: {best.tokens_per_s:,.0f} tokens/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,64,256,1024")
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--ttft", type=float, default=0.2)
    parser.add_argument("--tpot", type=float, default=0.02)
    parser.add_argument("--runs", type=int, default=1, help="per client and size, in rotation; medians are printed")
    parser.add_argument(
        "--dialect", choices=("sglang", "vllm", "chat"), default="sglang", help="of our client; bench_serving speaks /generate"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--user-stamps", action="store_true", help="stamp at read instead of by the kernel")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--search-streams", type=int, default=256)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h20-fidelity-") as name:
        directory = Path(name)
        clients: dict[str, BenchServing | RustClient | Ours] = {}
        ours = Ours(directory, options.dialect, options.processes, not options.user_stamps)
        clients["ours"] = ours
        if not options.ours_only and not options.search:
            other = BenchServing(directory)
            other.prepare()
            clients["sglang bench_serving"] = other
            if list((directory / "rust").glob("_bench.*")):
                clients["sglang Rust client"] = RustClient(directory)
            else:
                print(f"the wheel of {SGLANG} for this Python has no Rust client: left out")
        load, cores = os.getloadavg()[0], os.cpu_count()
        print(
            f"load average {load:.2f} on {cores} cores; dialect {options.dialect}, true TTFT {1e3 * options.ttft:g} ms, "
            f"TPOT {1e3 * options.tpot:g} ms, {options.output} tokens",
            flush=True,
        )
        table: list[Run] = []
        with ReferenceProcess(ReferenceConfig(ttft=options.ttft, tpot=options.tpot)) as server:
            if options.search:
                search(ours, server, options.search_streams)
                return 0
            print(HEADER, flush=True)
            for streams in [int(part) for part in options.streams.split(",")]:
                runs: dict[str, list[Run]] = {key: [] for key in clients}
                for _ in range(options.runs):
                    for key, client in clients.items():
                        runs[key].append(measure(key, client, server, streams, options.output))
                for key in clients:
                    table.append(median(runs[key]))
                    print(row_text(table[-1]), flush=True)
        for streams in dict.fromkeys(run.streams for run in table):
            runs_here = {run.client: run for run in table if run.streams == streams}
            for name, run in runs_here.items():
                if name != "ours":
                    print(f"CPU at {streams} streams: {runs_here['ours'].cpu_per_1000 / run.cpu_per_1000:.2f} x {name}'s")
        print(f"load average {os.getloadavg()[0]:.2f}")
        if options.json:
            Path(options.json).write_text(json.dumps([vars(run) for run in table], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
