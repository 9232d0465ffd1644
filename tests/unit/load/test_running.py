"""The client against the built-in reference server: real sockets on loopback, no assertion on how long anything takes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load import (
    Arrivals,
    Cell,
    CellInterrupted,
    CellProgress,
    CellResult,
    LoadPlan,
    PromptRecipe,
    Slo,
    Target,
    cli,
    remote,
    run_cell,
)
from pytest_h20.load.prompts import load_jsonl
from pytest_h20.load.reference import (
    Generation,
    ReferenceConfig,
    ReferenceProcess,
    ReferenceReply,
    ReferenceRequest,
    ReferenceServer,
    Schedule,
)
from pytest_h20.load.reference import main as reference_main
from pytest_h20.load.selfcheck import errors_against_truth, self_check
from pytest_h20.load.server_metrics import fetch

from .conftest import Serve

CELL = Cell(16, 8, 4)


def target(server: ReferenceServer, dialect: str = "vllm", **more: Any) -> Target:
    return Target(server.url, dialect, "reference", vocab_size=32000, **more)


def run(server: ReferenceServer, dialect: str = "vllm", cell: Cell = CELL, **plan: Any) -> CellResult:
    return run_cell(target(server, dialect), cell, LoadPlan(**{"metrics_every_s": 0.02, **plan}))


def finding(result: CellResult, rule: str) -> str:
    return next(f.status for f in result.sanity if f.rule == rule)


# ---- figures against the truth -----------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", ["sglang", "vllm", "chat"])
@pytest.mark.parametrize("flavour", ["sglang", "vllm"])
@pytest.mark.parametrize("stamps", [True, False])
def test_every_dialect_counts_what_the_server_sent(serve: Serve, dialect: str, flavour: str, stamps: bool) -> None:
    server = serve(flavour=flavour, reasoning=3, template_tokens=4)
    result = run(server, dialect, requests=12, kernel_stamps=stamps)
    assert result.requests.outcomes == {"ok": 12}
    assert (result.tokens.input, result.tokens.output) == (12 * 16, 12 * 8)
    assert (result.tokens.wrong_input, result.tokens.wrong_output) == (0, 0)
    assert result.whole is not None
    assert result.ttft.mean is not None
    truth = [row for row in server.truth()["rows"] if row["asked"] == 8][1:]  # without the warm-up
    assert len(truth) == 12
    mean = sum(row["ttft"] for row in truth) / 12
    assert result.ttft.mean / 1e3 >= mean * 0.98  # never sooner than the truth; how much later is for the benchmark
    assert result.server is not None
    assert result.server.generation_tokens == 96
    assert [f.rule for f in result.sanity if f.status == "failed" and f.rule != "littles_law"] == []
    assert result.flight.peak == 4
    connections = {row["connection"] for row in truth}
    assert len(connections) == 4  # kept open and used again


def test_prompts_are_distinct_on_the_wire_and_the_seed_is_recorded(serve: Serve) -> None:
    server = serve()
    result = run(server, requests=12, seed=99)
    assert server.truth()["summary"]["distinct_prompts"] == 13
    assert result.seed == 99


def test_model_time_scales_the_whole_result_consistently(serve: Serve) -> None:
    server = serve(ttft=0.02, tpot=0.004)
    result = run(server, requests=8, time_scale=50.0, slo=Slo(ttft_ms=100_000))
    assert result.time_scale == 50.0
    assert any("compressed time" in note for note in result.notes)
    truth = [row for row in server.truth()["rows"] if row["asked"] == 8][1:]
    wall_ttft = sum(row["ttft"] for row in truth) / len(truth)
    assert result.ttft.mean is not None
    assert result.ttft.mean / 1e3 >= 50 * wall_ttft * 0.98
    assert result.whole is not None
    assert result.e2e.mean is not None
    assert result.whole.seconds >= 50 * 2 * 0.02  # two waves
    assert result.whole.output_tokens_per_s == pytest.approx(64 / result.whole.seconds)
    # the law holds only if rates and latencies are scaled alike
    in_flight = result.whole.requests_per_s * result.e2e.mean / 1e3
    assert in_flight == pytest.approx(result.flight.mean, rel=0.2)
    assert result.goodput_share == 1.0


def test_speculative_events_are_counted_by_usage(serve: Serve) -> None:
    result = run(serve(tokens_per_event=3), requests=8)
    assert result.tokens.output == 64
    assert result.itl_basis == "event"
    assert any("tokens per event" in note for note in result.notes)
    exact = run(serve(tokens_per_event=3), requests=8, usage_each=True)
    assert exact.itl_basis == "token"
    assert exact.itl.count == 8 * 5  # the first event of three brings no gap, then 3 + 2


def test_incremental_generate(serve: Serve) -> None:
    result = run(serve(incremental=True), "sglang", requests=8)
    assert result.requests.outcomes == {"ok": 8}
    assert result.itl_basis == "token"


# ---- what servers do wrong ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("http500", "http_error"),
        ("http503", "http_error"),
        ("reset", "reset"),
        ("midstream", "reset"),
        ("eof", "cut"),
        ("truncate", "cut"),
        ("stream_error", "stream_error"),
        ("stall", "timeout"),
    ],
)
def test_a_broken_request_is_one_outcome_and_never_the_end(serve: Serve, kind: str, outcome: str) -> None:
    server = serve(fail_rate=0.25, fail_kind=kind)
    result = run(server, "sglang" if kind == "stall" else "vllm", requests=12, warmup=0, request_timeout_s=0.4)
    assert result.requests.outcomes == {"ok": 9, outcome: 3}
    assert result.requests.first_failures
    assert finding(result, "finished") == "failed"
    assert not result.trustworthy


def test_short_long_and_uncounted_answers(serve: Serve) -> None:
    short = run(serve(short=0.5), requests=4)
    assert short.requests.outcomes == {"short": 4}
    assert finding(short, "usage") == finding(short, "littles_law") == "failed"
    skewed = run(serve(completion_skew=3), requests=4)
    assert skewed.requests.outcomes == {"long": 4}
    silent = run(serve(usage="never"), requests=4)
    assert silent.requests.outcomes == {"uncounted": 4}
    assert finding(silent, "finished") == "failed"


def test_a_cached_or_limited_server_is_noticed(serve: Serve) -> None:
    assert finding(run(serve(cache_hit_rate=0.5), requests=8), "prefix_cache") == "failed"
    limited = run(serve(batch=1, ttft=0.03), requests=8)
    assert finding(limited, "server_running") == "failed"
    assert limited.server is not None
    assert limited.server.running_max == 1
    assert limited.flight.answering == 1
    bursty = run(serve(running_cap=1, ttft=0.03, tpot=0.02), requests=8)
    assert (bursty.flight.answering, finding(bursty, "server_running")) == (4, "ok")
    silent = run(serve(metrics=False), requests=8)
    assert silent.server is None
    assert finding(silent, "server_running") == "unknown"


def test_a_server_that_dies_ends_the_cell_early_and_says_so(serve: Serve) -> None:
    server = serve(fail_rate=1, fail_kind="reset")
    result = run(server, requests=500, warmup=0)
    assert result.stopped == "server_gone"
    assert result.requests.complete == 0
    assert result.requests.outcomes["not_sent"] > 400
    assert sum(result.requests.outcomes.values()) == 500


@pytest.mark.parametrize("processes", [1, 2])
def test_a_server_that_is_known_to_have_ended_is_not_waited_for(serve: Serve, tmp_path: Path, processes: int) -> None:
    """One that takes requests and answers none of them, as rank 0 does whose peer was killed; the deadline is never reached."""
    server = serve(ttft=3600.0)
    ended = tmp_path / "died-vllm.json"
    told: list[CellProgress] = []

    def seen(progress: CellProgress) -> None:
        told.append(progress)
        ended.touch()  # all streams wait

    plan = LoadPlan(requests=8, warmup=0, processes=processes)
    result = run_cell(target(server, metrics_url="", ended_file=str(ended)), CELL, plan, seen)
    assert told[0].in_flight == 4
    assert result.stopped == "server_gone"
    assert result.requests.outcomes == {"cancelled": 4, "not_sent": 4}
    assert "given up: the engine has ended" in "; ".join(result.requests.first_failures)
    assert finding(result, "finished") == "failed"


def test_nor_is_its_warm_up(serve: Serve, tmp_path: Path) -> None:
    ended = tmp_path / "died-vllm.json"
    ended.touch()
    result = run_cell(target(serve(ttft=3600.0), metrics_url="", ended_file=str(ended)), CELL, LoadPlan(requests=8))
    assert "the warm-up request failed: cancelled: given up: the engine has ended" in "; ".join(result.requests.first_failures)


def test_no_server_is_a_result_too() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    result = run_cell(Target(f"http://127.0.0.1:{port}", "vllm", vocab_size=32000), CELL, LoadPlan(warmup=0))
    assert result.stopped == "server_gone"
    assert "ECONNREFUSED" in result.requests.first_failures[0]
    assert result.requests.outcomes == {"not_sent": 16}


def speak(answer: bytes, times: int) -> tuple[str, threading.Thread]:
    """A server that answers every connection with the same bytes and closes it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)

    def serve_all() -> None:
        with listener:
            for _ in range(times):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)

    thread = threading.Thread(target=serve_all, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol"),
        (b"", "cut"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "protocol"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "http_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}xxxx", "protocol"),
    ],
)
def test_whatever_listens_there_gives_an_outcome(answer: bytes, outcome: str) -> None:
    url, thread = speak(answer, 1)
    plan = LoadPlan(requests=1, warmup=0, request_timeout_s=5)
    result = run_cell(Target(url, "vllm", vocab_size=32000, metrics_url=""), Cell(4, 4, 1), plan)
    thread.join(5)
    assert result.requests.outcomes == {outcome: 1}


# ---- kinds of load -----------------------------------------------------------------------------------------------
def test_open_loop_sends_on_time_whatever_the_server_does(serve: Serve) -> None:
    server = serve(ttft=0.2)
    result = run(server, cell=Cell(8, 4, 1), requests=20, arrivals=Arrivals("poisson", rate=200), warmup=0)
    assert result.requests.outcomes == {"ok": 20}
    assert result.flight.peak > 5  # answers take longer than the gaps
    assert result.lag.count == 20
    assert finding(result, "server_running") == "ok"
    burst = run(server, cell=Cell(8, 4, 1), requests=6, arrivals=Arrivals("burst", rate=100, burst=3), warmup=0)
    assert burst.requests.complete == 6


def test_a_limit_of_connections_shows_as_lag(serve: Serve) -> None:
    server = serve(ttft=0.05)
    result = run(server, cell=Cell(8, 4, 1), requests=6, arrivals=Arrivals("burst", rate=100, burst=6), max_connections=2, warmup=0)
    assert result.requests.complete == 6
    assert result.flight.peak <= 2
    assert result.lag.max is not None
    assert result.lag.max > 50
    assert finding(result, "schedule") == "failed"


def test_time_bounds_and_ramp(serve: Serve) -> None:
    result = run(serve(ttft=0.03), duration_s=0.3, arrivals=Arrivals(ramp_s=0.1))
    assert result.requests.planned is None
    assert result.stopped == "duration"
    assert result.requests.complete == result.requests.sent > 0  # how many depends on the machine
    assert finding(result, "finished") == "ok"
    cut = run(serve(ttft=5.0), requests=4, warmup=0, cell_timeout_s=0.3)
    assert cut.stopped == "cell_timeout"
    assert cut.requests.outcomes == {"cancelled": 4}


def test_conversations_send_their_history(serve: Serve) -> None:
    server = serve()
    result = run(server, "chat", cell=Cell(6, 4, 2), requests=3, warmup=0, prompts=PromptRecipe("multi-turn", turns=3))
    assert result.requests.outcomes == {"ok": 9}
    bodies = [stream.request.json() for stream in server.streams if stream.generation.asked_tokens == 4]
    assert sorted(len(body["messages"]) for body in bodies) == [1] * 3 + [3] * 3 + [5] * 3
    assert any(body["messages"][-2]["content"].strip() == "the and was for" for body in bodies if len(body["messages"]) > 1)


def test_real_prompts(serve: Serve) -> None:
    server = serve()
    recipe = load_jsonl('{"prompt": "a b c", "output_len": 5}\n{"prompt": "d", "output_len": 2}', "p", 9)
    result = run(server, cell=Cell(1, 1, 2), requests=4, prompts=recipe, warmup=0)
    assert result.tokens.output == 14
    assert result.requests.outcomes == {"ok": 4}


def test_processes_share_the_cell(serve: Serve) -> None:
    server = serve(ttft=0.05)
    seen: list[CellProgress] = []
    plan = LoadPlan(requests=10, processes=2, warmup=0)
    result = run_cell(target(server), Cell(8, 40, 5), plan, seen.append)
    assert result.requests.outcomes == {"ok": 10}
    assert result.client is not None
    assert result.client.processes == 2
    assert result.flight.peak == 5
    assert server.truth()["summary"]["distinct_prompts"] == 10
    assert result.tokens.output == 400


def test_records_are_on_disk(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(serve(), requests=4, records_path=str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["ok"] * 4
    with pytest.raises(UsageError, match="cannot write the records"):
        run(serve(), requests=1, records_path=str(tmp_path / "no" / "r"))


def test_sigint_in_a_cell_keeps_what_was_finished(serve: Serve, tmp_path: Path) -> None:
    server = serve(fail_rate=0.5, fail_kind="stall", ttft=0.0, tpot=0.0001)

    def stop(progress: CellProgress) -> None:
        if progress.done >= 2:
            signal.raise_signal(signal.SIGINT)

    plan = LoadPlan(requests=400, warmup=0, records_path=str(tmp_path / "r.jsonl"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIGINT ignored
    try:
        with pytest.raises(CellInterrupted) as caught:
            run_cell(target(server), CELL, plan, stop)
    finally:
        signal.signal(signal.SIGINT, before)
    result = caught.value.result
    assert result.stopped == "interrupted"
    assert result.requests.complete >= 2
    assert result.requests.outcomes["cancelled"] >= 1
    assert not result.trustworthy
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == result.requests.sent


def test_ipv6(serve: Serve) -> None:
    try:
        server = ReferenceServer(ReferenceConfig(ttft=0.0, tpot=0.0), "::1")
    except UsageError:
        pytest.skip("this machine has no ::1")
    serve(server)
    assert run(server, requests=4).requests.outcomes == {"ok": 4}
    assert "[::1]" in server.url


# ---- TLS ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_front(serve: Serve, certificate: Path) -> Iterator[str]:
    """Ends TLS before a reference server, one pair of threads per connection."""
    server = serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                front = context.wrap_socket(raw, server_side=True)
            except (OSError, ssl.SSLError):
                continue
            back = socket.create_connection((server.host, server.port))
            for pair in ((front, back), (back, front)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"https://localhost:{listener.getsockname()[1]}"
    listener.close()


def test_tls_is_verified_unless_told_otherwise(tls_front: str, certificate: Path) -> None:
    plan = LoadPlan(requests=8, warmup=0, metrics_every_s=0.02)

    def result(**more: Any) -> CellResult:
        return run_cell(Target(tls_front, "vllm", "m", vocab_size=32000, **more), CELL, plan)

    assert result(ca_file=str(certificate)).requests.outcomes == {"ok": 8}
    accepted = result(verify_tls=False)
    assert accepted.requests.outcomes == {"ok": 8}
    assert accepted.server is not None
    refused = result()
    assert refused.stopped == "server_gone"
    assert "certificate" in refused.requests.first_failures[0].lower()
    with pytest.raises(UsageError, match="ca_file"):
        result(ca_file="/no/such/file")


# ---- self-check --------------------------------------------------------------------------------------------------
def test_self_check_measures_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    check = self_check(4, output_len=8, ttft_s=0.05, tpot_s=0.005)
    assert check.worst is not None
    assert check.tokens_per_s > 0
    assert check.cpu_s_per_1000_tokens > 0

    def no_child(*_: Any, **__: Any) -> Any:
        raise MeasurementError("no child")

    monkeypatch.setattr(ReferenceProcess, "__enter__", no_child)
    failed = self_check(4)
    assert failed.saturated
    assert failed.note == "no child"


def test_errors_are_against_the_truth_of_the_same_requests(serve: Serve) -> None:
    server = serve()
    result = run(server, requests=8, warmup=0)
    truth = server.truth()
    for row in truth["rows"]:
        row["received"] -= 0.5 * row["ttft"]
        row["ttft"] *= 1.5
    check = errors_against_truth(result, truth, 4)
    told = result.ttft.mean / 1e3 if result.ttft.mean else 0.0
    true = sum(row["ttft"] for row in truth["rows"]) / len(truth["rows"])
    assert check.ttft_error == pytest.approx(told / true - 1)
    assert check.saturated
    truth["rows"].pop()
    lost = errors_against_truth(result, truth, 4)
    assert lost.worst is None
    assert "7 given" in lost.note


# ---- elsewhere: containers and Ray -------------------------------------------------------------------------------
def test_the_bundle_runs_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "load.pyz"
    path.write_bytes(remote.bundle())
    assert remote.bundle() == path.read_bytes()
    work = remote.job(target(serve(), "sglang", headers={"X-Key": "secret"}), CELL, LoadPlan(requests=8))
    command = [*remote.argv(str(path), sys.executable)]
    done = subprocess.run(command, input=work, capture_output=True, cwd=tmp_path, env={"PATH": "/usr/bin"}, timeout=60)
    assert done.stderr == b""
    assert b"secret" not in done.stdout
    result = remote.parse_output("noise of a container\n" + done.stdout.decode())
    assert result.requests.outcomes == {"ok": 8}
    bad = subprocess.run(command, input=b"{}\n", capture_output=True, cwd=tmp_path, env={"PATH": "/usr/bin"}, timeout=60)
    assert bad.returncode == 2
    assert b"Traceback" not in bad.stderr
    with pytest.raises(MeasurementError, match="load generator on the node"):
        remote.parse_output(bad.stdout.decode())
    with pytest.raises(MeasurementError, match=r"no result.*Killed"):
        remote.parse_output("python3: Killed")


def test_the_core_is_old_python_and_standard_library_only() -> None:
    import ast
    import zipfile
    from io import BytesIO

    with zipfile.ZipFile(BytesIO(remote.bundle())) as archive:
        for name in archive.namelist():
            tree = ast.parse(archive.read(name), feature_version=(3, 8))
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                for used in names:
                    assert used.split(".")[0] in {*sys.stdlib_module_names, "pytest_h20"}, f"{name} imports {used}"


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("dialect", ["sglang", "vllm", "chat"])
def test_the_bundle_runs_on_every_python_at_hand(serve: Serve, tmp_path: Path, version: str, dialect: str) -> None:
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no Python {version} on this machine")
    path = tmp_path / "load.pyz"
    path.write_bytes(remote.bundle())
    work = remote.job(target(serve(), dialect), CELL, LoadPlan(requests=8))
    done = subprocess.run([*remote.argv(str(path), found)], input=work, capture_output=True, timeout=60)
    assert done.stderr == b""
    assert remote.parse_output(done.stdout.decode()).requests.outcomes == {"ok": 8}


# ---- reference server --------------------------------------------------------------------------------------------
def test_the_reference_server_can_be_extended(serve: Serve) -> None:
    class Stand(ReferenceServer):
        def handle(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
            if request.path == "/own":
                return ReferenceReply({"method": request.method, "query": request.query}, 200, headers=(("X-A", "b"),), delay_s=0.01)
            return super().handle(request)

        def generation(self, request: ReferenceRequest) -> Generation:
            base = super().generation(request)
            pieces = ["why ", "not", "\n", "42"]
            return Generation(base.kind, 3, 4, base.asked_tokens, base.stream, "stop", pieces, reasoning=2, usage=True)

        def timing(self, request: ReferenceRequest, running: int) -> Schedule:
            return Schedule(0.001 * running, 0.0005 * running)

    import urllib.request

    server = serve(Stand(ReferenceConfig(flavour="vllm")))
    with urllib.request.urlopen(f"{server.url}/own?a=1", timeout=5) as answer:
        assert answer.headers["X-A"] == "b"
        assert json.loads(answer.read()) == {"method": "GET", "query": "a=1"}
    from pytest_h20.load.prompts import Prompt
    from pytest_h20.load.run import one_request

    chat, outcome, _ = one_request(target(server, "chat"), LoadPlan(), Prompt(0, 4, text="hello"))
    assert chat is not None
    assert (chat.reasoning_text, chat.text, chat.finish, outcome) == ("why not", "\n42", "stop", "ok")


@pytest.mark.parametrize(
    ("body", "status"), [(b'2\r\n{"\r\n9\r\nprompt":[\r\n3\r\n1]}\r\n0\r\n\r\n', b"200"), (b"zz\r\n{}\r\n0\r\n\r\n", b"400")]
)
def test_the_reference_server_reads_a_body_in_chunks(serve: Serve, body: bytes, status: bytes) -> None:
    server = serve(ttft=0.0, tpot=0.0)
    with socket.create_connection((server.host, server.port), timeout=5) as sock:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        for piece in (head + body[:9], body[9:]):
            sock.sendall(piece)
        assert sock.recv(65536).startswith(b"HTTP/1.1 " + status)


def test_the_reference_server_tells_what_is_wrong(capsys: pytest.CaptureFixture[str], serve: Serve) -> None:
    server = serve()
    assert reference_main(["--config", '{"warp": 9}']) == 2
    assert "no knob 'warp'" in capsys.readouterr().err
    assert reference_main(["--port", str(server.port)]) == 2
    assert "cannot listen" in capsys.readouterr().err
    config = ReferenceConfig()
    for wrong in ({"ttft": "x"}, {"fail_kind": "x"}, {"batch": True}):
        with pytest.raises(UsageError, match="reference server"):
            config.update(wrong)
    assert fetch(target(server)) is not None
    assert fetch(Target("http://127.0.0.1:1", "vllm")) is None


def test_the_reference_process_is_controlled_and_ends() -> None:
    with ReferenceProcess(ReferenceConfig(ttft=0.0, tpot=0.0)) as server:
        server.configure(ttft=0.001)
        run_cell(Target(server.url, "vllm", vocab_size=32000), Cell(4, 4, 1), LoadPlan(requests=2, warmup=0))
        assert server.truth()["summary"]["complete"] == 2
        server.reset()
        assert server.truth(full=True)["rows"] == []
        url = server.url
    assert run_cell(Target(url, "vllm", vocab_size=32000), CELL, LoadPlan()).requests.complete == 0


# ---- command line ------------------------------------------------------------------------------------------------
def test_command_line(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve()
    out, bench = tmp_path / "o.json", tmp_path / "bench"
    common = [
        "--url",
        server.url,
        "--dialect",
        "vllm",
        "--model",
        "m",
        "--vocab-size",
        "32000",
        "--input",
        "8",
        "--output",
        "20",
        "--no-selfcheck",
        "--quiet",
    ]
    status = cli.main([*common, "--concurrency", "1,2", "--requests", "4", "--json", str(out), "--bench-dir", str(bench)])
    shown = capsys.readouterr().out
    assert "in8-out20-c2  4/4 requests" in shown
    results = [CellResult.from_json(row) for row in json.loads(out.read_text())["results"]]
    assert [result.cell.concurrency for result in results] == [1, 2]
    assert status == (1 if any(f.status == "failed" for result in results for f in result.sanity) else 0)
    assert (bench / "summary.csv").read_text().count("\n") == 3
    assert json.loads((bench / "serving_benchmark_2_8_20.json").read_text())["input_lens"] == [8] * 4


def test_an_slo_that_is_given_is_judged(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve()
    common = [
        "--url",
        server.url,
        "--dialect",
        "vllm",
        "--model",
        "m",
        "--vocab-size",
        "32000",
        "--input",
        "8",
        "--output",
        "4",
        "--no-selfcheck",
        "--quiet",
        "--requests",
        "2",
    ]
    assert cli.main([*common, "--slo-ttft", "0.000001"]) == 1
    assert "goodput 0.000 requests/s (0.0 %)" in capsys.readouterr().out


def test_the_size_that_is_given_wins_over_the_name_and_a_guess_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Target] = []

    def look(target: Target, *_: object) -> CellResult:
        seen.append(target)
        raise UsageError("seen")

    monkeypatch.setattr(cli, "run_cell", look)
    common = ["--url", "http://h", "--dialect", "vllm", "--model", "deepseek-r1-tiny", "--no-selfcheck", "--quiet"]
    cli.main([*common, "--vocab-size", "2000"])
    assert "a guess" not in capsys.readouterr().err
    cli.main(common)
    assert "token ids 3 to 127999: a guess from the model's name 'deepseek-r1-tiny'" in capsys.readouterr().err
    assert [target.ids().high <= 2000 for target in seen] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--url", "http://h", "--dialect", "vllm", "--vocab-size", "99", "--tokenizer-json", "t.json"], "one of them"),
        (["--url", "x", "--dialect", "chat"], "http://host:port"),
        (["--url", "http://h", "--dialect", "vllm"], "vocab"),
        (["--url", "http://h", "--dialect", "chat", "--concurrency", "1,x"], "whole numbers"),
        (["--url", "http://h", "--dialect", "chat", "--concurrency", "0"], "concurrency = 0"),
        (["--url", "http://h", "--dialect", "chat", "--arrivals", "poisson"], "--requests or --duration"),
        (["--url", "http://h", "--dialect", "chat", "--header", "x"], "NAME:VALUE"),
        (["--url", "http://h", "--dialect", "chat", "--api-key-env", "H20_NO_SUCH"], "H20_NO_SUCH"),
        (["--url", "http://h", "--dialect", "chat", "--prompts", "/no/file"], "/no/file"),
        (["--url", "http://h", "--dialect", "chat", "--json", "/no/dir/x.json"], "/no/dir"),
        (["--url", "http://h", "--dialect", "chat", "--records", "/proc/x"], "/proc/x"),
    ],
)
def test_wrong_command_lines_end_in_one_line(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "--no-selfcheck"]) == 2
    shown = capsys.readouterr()
    assert word in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_progress_line() -> None:
    line = cli.progress_line(CellProgress("in1-out1-c4", 3, 16, 1, 4, 2.0, 1234.5, 44.6), 3, 26)
    assert line == "cell 3/26 in1-out1-c4: 3/16 requests, 1 failed, 1,234 tok/s, 45 s left"
