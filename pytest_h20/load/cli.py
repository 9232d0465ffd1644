"""`python -m pytest_h20 load`: one cell (or several concurrencies) against any OpenAI-compatible or SGLang server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.load.arrivals import KINDS, Arrivals
from pytest_h20.load.bench_serving import read_records, summary_csv, write_file
from pytest_h20.load.cells import RECIPES, Cell
from pytest_h20.load.loop import CellProgress
from pytest_h20.load.plan import LoadPlan, Slo
from pytest_h20.load.prompts import PromptRecipe, load_jsonl
from pytest_h20.load.result import CellResult, write_json
from pytest_h20.load.run import CellInterrupted, run_cell
from pytest_h20.load.target import DIALECTS, Target, Vocabulary


def parser() -> argparse.ArgumentParser:
    from pytest_h20.lang.arguments import Parser  # here, since what travels into containers has no words

    out = Parser(
        prog="python -m pytest_h20 load",
        description="Measure a serving endpoint: TTFT, TPOT, ITL, E2E, throughput, with sanity checks of its own figures.",
        epilog="Exit status: 0 measured and believable, 1 measured but a sanity rule failed, an SLO was not kept or nothing answered, "
        "2 wrong input, 130 interrupted (what was finished is written).",
    )
    out.add_argument("--url", required=True, help="http(s)://host:port")
    out.add_argument(
        "--dialect",
        required=True,
        choices=DIALECTS,
        help="sglang: /generate with ids; vllm: /v1/completions with ids; chat: /v1/chat/completions",
    )
    out.add_argument("--model", default="", help="model name in requests")
    out.add_argument("--concurrency", default="1", help="streams; several levels with commas")
    out.add_argument("--requests", type=int, help="requests per level (default: by --recipe)")
    out.add_argument("--duration", type=float, metavar="S", help="stop sending after S seconds")
    out.add_argument("--input", type=int, default=128, metavar="TOKENS")
    out.add_argument("--output", type=int, default=128, metavar="TOKENS")
    out.add_argument("--recipe", choices=RECIPES, default="steady", help="requests per level: several waves (steady) or one (blog)")
    out.add_argument("--arrivals", choices=KINDS, default="closed")
    out.add_argument("--rate", type=float, default=0.0, help="requests/s of an open loop")
    out.add_argument("--ramp", type=float, default=0.0, metavar="S", help="start the streams one by one within S seconds")
    out.add_argument("--prompts", metavar="JSONL", help="real prompts instead of random ones")
    out.add_argument("--turns", type=int, default=1, help="conversations of so many turns")
    out.add_argument("--vocab-size", type=int, help="of the model (config.json); wins over what its name lets guess")
    out.add_argument("--tokenizer-json", metavar="FILE", help="take the usable ids from a tokenizer.json")
    out.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the bearer token")
    out.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    out.add_argument("--insecure", action="store_true", help="accept any TLS certificate")
    out.add_argument("--ca-file", metavar="PEM")
    out.add_argument("--seed", type=int, default=LoadPlan().seed)
    out.add_argument("--warmup", type=int, default=1)
    out.add_argument("--timeout", type=float, default=LoadPlan().request_timeout_s, metavar="S", help="of one request")
    out.add_argument("--processes", type=int, default=1, help="client processes (0 = by streams and cores)")
    out.add_argument("--slo-ttft", type=float, metavar="MS")
    out.add_argument("--slo-tpot", type=float, metavar="MS")
    out.add_argument("--slo-e2e", type=float, metavar="MS")
    out.add_argument(
        "--slo-share",
        type=float,
        default=0.99,
        metavar="PART",
        help="part of the requests that must keep every --slo-*, else exit status 1 (0.99)",
    )
    out.add_argument("--user-stamps", action="store_true", help="stamp at read instead of by the kernel's receive time")
    out.add_argument("--usage-each", action="store_true", help="ask for usage in every event")
    out.add_argument("--no-ignore-eos", action="store_true", help="let the model stop")
    out.add_argument("--no-selfcheck", action="store_true", help="do not check this client first")
    out.add_argument("--json", metavar="FILE", help="all results, schema in pytest_h20/load/schema.json")
    out.add_argument("--records", metavar="DIR", help="one JSONL per level, a line per request")
    out.add_argument("--bench-dir", metavar="DIR", help="serving_benchmark_*.json and summary.csv as the write-up's")
    out.add_argument("--quiet", action="store_true", help="no progress")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """See `parser().epilog` for the exit status."""
    from pytest_h20.lang import local

    options = parser().parse_args(argv)
    results: list[CellResult] = []
    interrupted = False
    try:
        cells = [Cell(options.input, options.output, level) for level in _levels(options.concurrency)]
        target, plan = _target(options), _plan(options)
        for directory in (options.records, options.bench_dir):
            if directory:
                _make_directory(directory)
        if options.json:
            _check_place(options.json)
        for number, cell in enumerate(cells, 1):
            own = plan
            if options.records or options.bench_dir:
                own = replace(own, records_path=os.path.join(options.records or options.bench_dir, f"{cell.id}.jsonl"))
            if not options.no_selfcheck:
                from pytest_h20.load.selfcheck import self_check  # with the reference server: 15 ms that not every run needs

                own = replace(own, selfcheck=self_check(cell.concurrency, target.dialect, plan))
            try:
                result = run_cell(target, cell, own, None if options.quiet else _progress(number, len(cells)))
            except CellInterrupted as stop:
                result, interrupted = stop.result, True
            if not options.quiet and sys.stderr.isatty():
                sys.stderr.write("\r\x1b[K")
            results.append(result)
            print(local(describe(result)), flush=True)
            if options.bench_dir:
                write_file(options.bench_dir, result, read_records(own.records_path) if own.records_path else ())
            if interrupted or result.stopped == "server_gone":
                break
        _write(options, results)
    except H20Error as error:
        sys.stderr.write(f"{local(str(error))}\n")
        return 2
    except KeyboardInterrupt:
        interrupted = True
        _write(options, results)
    if interrupted:
        sys.stderr.write(local(f"interrupted; {len(results)} results kept") + "\n")
        return 130
    return 0 if results and all(not _bad(result, options.slo_share) for result in results) else 1


def _bad(result: CellResult, slo_share: float) -> bool:
    """Alone there may be no self-check and no /metrics; what was checked must be right, and something measured."""
    if result.slo and (result.goodput_share is None or result.goodput_share < slo_share):
        return True
    return result.requests.complete == 0 or any(finding.status == "failed" for finding in result.sanity)


def _levels(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--concurrency {text!r}: whole numbers, with commas between them, are needed") from None


def _target(options: argparse.Namespace) -> Target:
    headers = {}
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise UsageError("--header: NAME:VALUE is needed")
        headers[name.strip()] = value.strip()
    if options.api_key_env:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise UsageError(f"--api-key-env {options.api_key_env}: that variable is not set")
        headers["Authorization"] = f"Bearer {key}"
    vocabulary = None
    if options.tokenizer_json and options.vocab_size is not None:
        raise UsageError(f"--vocab-size {options.vocab_size} and --tokenizer-json: give one of them, they may disagree")
    if options.tokenizer_json:
        vocabulary = Vocabulary.from_tokenizer_json(_read(options.tokenizer_json))
    target = Target(
        options.url,
        options.dialect,
        options.model,
        headers,
        vocabulary,
        options.vocab_size,
        verify_tls=not options.insecure,
        ca_file=options.ca_file,
    )
    if options.dialect != "chat" and not options.prompts:
        ids = target.ids()  # before anything runs
        if vocabulary is None and options.vocab_size is None:
            sys.stderr.write(
                f"token ids {ids.low} to {ids.high - 1}: a guess from the model's name {options.model!r}; an id that the model lacks can "
                "end its server: give --vocab-size (config.json) or --tokenizer-json\n"
            )
    return target


def _plan(options: argparse.Namespace) -> LoadPlan:
    prompts = PromptRecipe()
    if options.prompts:
        prompts = load_jsonl(_read(options.prompts), options.prompts, options.output)
    elif options.turns > 1:
        prompts = PromptRecipe("multi-turn", turns=options.turns)
    elif options.turns < 1:
        raise UsageError(f"--turns {options.turns}: at least 1 is needed")
    if options.arrivals != "closed" and options.requests is None and options.duration is None:
        raise UsageError(f"--arrivals {options.arrivals}: an open loop needs --requests or --duration")
    arrivals = Arrivals(options.arrivals, options.rate, ramp_s=options.ramp)
    return LoadPlan(
        recipe=options.recipe,
        requests=options.requests,
        duration_s=options.duration,
        arrivals=arrivals,
        prompts=prompts,
        seed=options.seed,
        warmup=options.warmup,
        request_timeout_s=options.timeout,
        processes=options.processes,
        slo=Slo(options.slo_ttft, options.slo_tpot, options.slo_e2e),
        ignore_eos=not options.no_ignore_eos,
        usage_each=options.usage_each,
        kernel_stamps=not options.user_stamps,
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {path}: {error.strerror or error}") from None


def _check_place(path: str) -> None:
    """Before the measurement, not after it."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK):
        raise UsageError(f"--json {path}: {directory} is not a directory that can be written")


def _write(options: argparse.Namespace, results: Sequence[CellResult]) -> None:
    if options.json:
        write_json(options.json, {"schema": 1, "results": [result.to_json() for result in results]})
    if options.bench_dir and results:
        with open(os.path.join(options.bench_dir, "summary.csv"), "w", encoding="utf-8") as file:
            file.write(summary_csv(results))


def _progress(number: int, of: int) -> Callable[[CellProgress], None]:
    live = sys.stderr.isatty()
    last = [0.0]

    def show(progress: CellProgress) -> None:
        if not live and progress.elapsed_s - last[0] < 30:
            return
        last[0] = progress.elapsed_s
        line = progress_line(progress, number, of)
        sys.stderr.write(f"\r\x1b[K{line}" if live else f"{line}\n")
        sys.stderr.flush()

    return show


def progress_line(progress: CellProgress, number: int, of: int) -> str:
    """`cell 3/26 in128-out128-c64: 120/192 requests, 1,234 tok/s, 45 s left`"""
    total = "" if progress.total is None else f"/{progress.total}"
    left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"cell {number}/{of} {progress.cell}: {progress.done}{total} requests{failed}, {progress.tokens_per_s:,.0f} tok/s{left}"


def describe(result: CellResult) -> str:
    """A cell as lines of text: figures first, then what is wrong or unknown."""

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [f"{result.cell.id}  {result.requests.complete}/{result.requests.planned or result.requests.sent} requests"]
    for name, rates in (("whole ", result.whole), ("steady", result.steady)):
        if rates is not None:
            lines.append(
                f"  {name}  output {rates.output_tokens_per_s:.2f} tok/s  input {rates.input_tokens_per_s:.2f} tok/s  "
                f"{rates.requests_per_s:.3f} requests/s  over {rates.seconds:.2f} s"
            )
    for name in ("ttft", "tpot", "itl", "e2e"):
        summary = getattr(result, name)
        if summary.count:
            lines.append(
                f"  {name.upper():<4} ms  mean {ms(summary.mean)}  median {ms(summary.median)}  p90 {ms(summary.p90)}  "
                f"p99 {ms(summary.p99)}"
            )
    if result.goodput_requests_per_s is not None and result.goodput_share is not None:
        lines.append(f"  goodput {result.goodput_requests_per_s:.3f} requests/s ({100 * result.goodput_share:.1f} %)")
    found = [f for f in result.sanity if f.status == "failed"] if not result.requests.complete else result.sanity  # of nothing, no rule
    lines += [f"  {finding.status:<7} {finding.rule}: {finding.text}" for finding in found]
    lines += [f"  note    {note}" for note in result.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
