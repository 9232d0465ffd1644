"""Line shapes and error texts met in public logs after the corpus was made. Only the deciding lines, rewritten; source behind each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.nccl import judge_job, labels, parse_log
from pytest_h20.nccl.failures import classify
from tests.unit.nccl.examples import EXAMPLES
from tests.unit.nccl.lines import FATAL, one, verdict
from tests.unit.nccl.synthetic import Synthetic

# message, severity, label, can it be the first cause
MESSAGES = [
    # sockets: the system's own words, whichever they are
    (
        "socketStartConnect: Connect to 10.0.0.2<45> failed : Software caused connection abort",
        "fatal",
        "software caused connection abort",
        True,
    ),  # NVIDIA/nccl#1515, nccl-tests#166
    (
        "socketPollConnect: connect to 10.0.0.2<45> returned Connection refused, exceeded error retry count after 35 attempts",
        "fatal",
        "connection refused",
        True,
    ),  # SGLang on 2x8, NCCL 2.27: was taken for a retry
    ("socketPollConnect: connect returned Connection refused, exceeded error retry count (35)", "fatal", "connection refused", True),
    ("socketStartConnect: exceeded timeouts (3)", "fatal", "connection timed out", True),  # NCCL 2.21 source
    ("Net : Call to recv from 10.0.0.2<45> failed : Connection reset by peer", "fatal", "connection reset by peer", False),
    ("socketProgressOpt: Call to send to 10.0.0.2<45> failed : Broken pipe", "fatal", "broken pipe", False),
    (
        "Net : Socket creation failed : Address family not supported by protocol",
        "fatal",
        "address family not supported by protocol",
        True,
    ),  # NVIDIA/nccl#224
    (
        "ncclSocketInit: connecting to address  with family 1 is neither AF_INET(2) nor AF_INET6(10)",
        "fatal",
        "invalid socket address",
        True,
    ),  # NVIDIA/nccl#1837
    ("socketFinalizeAccept: wrong type 4 != 3", "fatal", "wrong socket type", True),  # nccl-tests#188
    ("socketFinalizeAccept: wrong magic 0 != 1f", "note", "", False),  # NCCL 2.21 source: ignored
    ("Socket recv failed while polling for opId=0x7f", "fatal", "", False),
    ("ncclProxyClientGetFd call to tpRank 4 handle 0x15 failed : 6", "fatal", "", False),
    # verbs calls: any call, any text, with and without numbers
    ("Call to ibv_modify_qp failed with error Invalid argument errno 22", "fatal", "ibv_modify_qp failed: Invalid argument", True),
    (
        "Call to ibv_modify_qp failed with 61 No data available, on dev rocep1s0:1, curr state INIT, next state RTR, local GID index 3",
        "fatal",
        "ibv_modify_qp failed: No data available",
        True,
    ),
    ("Call to ibv_create_qp failed with error Unknown error -12", "fatal", "ibv_create_qp failed: Unknown error -12", True),
    ("ibv_post_send() failed with error Bad address, Bad WR 0x7f00, First WR 0x7f00", "fatal", "ibv_post_send failed: Bad address", True),
    ("Call to ibv_poll_cq() returned -1", "fatal", "ibv_poll_cq failed", True),
    (
        "Call to ibv_query_port_speed failed with error Protocol not supported errno 93",
        "note",
        "ibv_query_port_speed failed: Protocol not supported",
        False,
    ),  # NCCL 2.30 source: the speed is guessed
    # completions and events
    (
        "NET/IB : Got completion from peer 1.1.1.1<5> with status=9 opcode=0 len=0 vendor err 138 (Send)",
        "fatal",
        "completion status 9 vendor err 138",
        True,
    ),  # NVIDIA/nccl#1710
    ("NET/IB: Unsupported completion status IBV_WC_RETRY_EXC_ERR (12)", "fatal", "completion status 12 (timeout)", True),
    ("NET/IB: Got CQE with error (devIndex=0, req=0x7f, comm=0x7e (recv), wr_id=0, qp_num=26)", "fatal", "", False),
    (
        "NET/IB : mlx5_0:1 Got async event : local access violation work queue error",
        "fatal",
        "async event: local access violation",
        True,
    ),  # NVIDIA/nccl#1710
    (
        "NET/IB : mlx5_3:1 async fatal event on QP (0x73) qpn=7 handle=1 send_cq=2 recv_cq=2 state=6 sq_psn=1 rq_psn=1: invalid request "
        "local work queue error",
        "fatal",
        "async fatal event: invalid request local",
        True,
    ),  # NCCL 2.30 source
    (
        "NET/IB : mlx5_0:1 async fatal event on SRQ, unused for now (0x7f): SRQ catastrophic error",
        "fatal",
        "async fatal event: SRQ catastrophic error",
        True,
    ),
    ("NET/IB : mlx5_1:1 Got non-fatal async event: port error(10)", "retry", "async event: port error", True),
    ("NET/IB : mlx5_1:1 Got async error event: client reregistration", "note", "async event: client reregistration", False),
    ("NET/IB : mlx5_1:1 Got async event : GID table change", "note", "async event: GID table change", False),
    ("NET/IB : mlx5_1:1 unknown event type (18)", "note", "async event: GID table change", False),  # NVIDIA/nccl#1819
    ("NET/IB : mlx5_1:1 Got async event : local cat", "fatal", "async event: local cat", True),  # a cut name is not a mild one
    ("NET/IB : mlx5_2:1 Got async event :", "fatal", "async event", True),
    (
        "NET/IB : Remote mlx5_0 device is incompatible with the local [1]mlx5_1:1/RoCE. Try selecting",
        "fatal",
        "incompatible link layers",
        True,
    ),
    # libfabric
    (
        "NET/OFI Unable to register memory (type = 1) for device 0. RC: 12, Error: Cannot allocate memory",
        "fatal",
        "NET/OFI unable to register memory: Cannot allocate memory",
        True,
    ),  # NVIDIA/nccl#563
    (
        "NET/OFI Request 0x7f45 completed with error. RC: 103. Error: 4126 (Unresponsive receiver (reachable))",
        "fatal",
        "NET/OFI request completed with error: Unresponsive receiver",
        True,
    ),
    # the rest
    (
        "Error: failed to extend /dev/shm/nccl-x to 9637892 bytes, error: No space left on device (28)",
        "fatal",
        "shared memory segment failed",
        True,
    ),
    ("Mismatched NCCL version detected : rank 0 version 22105 rank 1 version 22703", "fatal", "version mismatch", True),
    (
        "Detected mixed local Net device counts across ranks (min 7, max 8). Set NCCL_IGNORE_NET_MISMATCH=1 to continue.",
        "fatal",
        "mixed net device counts",
        True,
    ),
]


@pytest.mark.parametrize(("message", "severity", "label", "primary"), MESSAGES)
def test_messages(message: str, severity: str, label: str, primary: bool) -> None:
    failure = classify(message, warn=True)
    assert failure is not None
    assert (failure.severity, failure.label, failure.primary) == (severity, label, primary)
    assert failure.meaning


@pytest.mark.parametrize("message", [m for m, severity, _, _ in MESSAGES if severity == "fatal"])
def test_fatal_messages_end_the_proof(message: str) -> None:
    assert verdict(Synthetic("2.21.5", last=(f"file.cc:1 NCCL WARN {message}",)).all()).verdict == "undetermined"


LINES = [line for line, _, _ in FATAL] + [f"file.cc:1 NCCL WARN {m}" for m, severity, _, _ in MESSAGES if severity == "fatal"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(LINES), st.data())
def test_a_fatal_warning_cut_anywhere_ends_the_proof(line: str, data: st.DataObject) -> None:
    start = line.index("NCCL WARN ") + len("NCCL WARN ")
    cut = data.draw(st.integers(start + 3, len(line)))
    log = Synthetic("2.21.5", last=(line[:cut],)).all()
    assert verdict(log[:-1]).verdict == "undetermined", line[:cut]


WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=10)


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=5), st.sampled_from(["", " errno 5", ", on dev mlx5_0:1, curr state INIT"]))
def test_any_verbs_call_with_any_text(call: str, text: list[str], tail: str) -> None:
    why = " ".join(text).capitalize()
    failure = classify(f"Call to ibv_{call} failed with error {why}{tail}", warn=True)
    assert failure is not None
    assert failure.label == f"ibv_{call} failed: {why}"


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 30), st.booleans())
def test_any_completion_number(status: int, old: bool) -> None:
    said = f"error {status}, opcode 0, len 0, vendor err 1" if old else f"status={status} opcode=0 len=0 vendor err 1 (Recv)"
    failure = classify(f"NET/IB : Got completion from peer 10.0.0.1<7> with {said}", warn=True)
    assert failure is not None
    assert failure.label.startswith(f"completion {'error' if old else 'status'} {status} ")


def test_libfabric_that_finds_no_adapter_is_no_failure() -> None:
    last = ("f:1 NCCL WARN NET/OFI aws-ofi-nccl initialization failed", "f:1 NCCL WARN NET/OFI Only EFA provider is supported")
    assert verdict(Synthetic("2.21.5", last=last).all()).verdict == "rdma_proven"


PLACES = [
    "misc/ibvwrap.cc:213 (wrap_ibv_reg_mr) ",  # NCCL 2.30
    "int cm_req_handle_error_entry(nccl_net_ofi_context_t*, fid_cq*, uint16_t):46 ",  # aws-ofi-nccl 1.14
    "/build/rccl/src/misc/socket.cpp:57 ",  # RCCL
    "ofi_process_cq:196 ",
    "transport/[net_ib.cc:101](http://net_ib.cc:101/) ",  # a GitHub comment, NVIDIA/nccl#1710
]


@pytest.mark.parametrize("place", PLACES)
def test_where_a_warning_was_raised(place: str) -> None:
    (error,) = parse_log(f"[2026-01-02 03:04:05] n1:11:22 [3] {place}NCCL WARN NET/IB : Got async event : port error\n").errors
    assert (error.host, error.pid, error.label) == ("n1", 11, "async event: port error")


def test_masked_pid_keeps_the_host() -> None:  # NVIDIA/nccl#2013
    (error,) = parse_log("[2026-01-02 03:04:05] n1.lan:XXXXXX [5] ibvwrap.c:262 NCCL WARN Call to ibv_modify_qp failed\n").errors
    assert (error.host, error.pid) == ("n1.lan", 0)
    assert parse_log("n1:xxxx:xxxx [5] NCCL INFO Using network IB\n").hosts == {"n1"}


def test_warning_wrapped_by_hand() -> None:
    log = (
        "n1:1:2 [0] net_ib.cc:2472 NCCL WARN NET/IB: Got completion from peer 10.0.0.2\n"
        "  with status=12 opcode=0 len=0 vendor err 129 (Recv)\n  localGid  fe80::1\n"
    )
    assert labels(parse_log(log))["errors"] == ["completion status 12 (timeout)"]


def test_device_list_over_three_lines() -> None:
    log = (
        "n1:1:2 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB\n"
        "               [2]mlx5_2:1/IB\n               [3]mlx5_3:1/IB [RO]; OOB eth0:10.0.4.19\n"
    )
    got = labels(parse_log(log))
    assert got["hcas"] == ["mlx5_0:1", "mlx5_1:1", "mlx5_2:1", "mlx5_3:1"]
    assert (got["oob_interface"], got["oob_address"]) == ("eth0", "10.0.4.19")


@pytest.mark.parametrize(
    ("line", "transport", "gdr"),
    [
        ("Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMA/flush=None", "ib", True),  # NCCL 2.31
        ("Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMA(PCI)/Shared/flush=PciRead", "ib", True),
        ("Channel 01/0 : 9[21000] -> 0[17000] [receive] via NET/IB/0/GDRDMA comm 0x5609 nRanks 32", "ib", True),  # RCCL, ray#59778
        ("Channel 02/0 : 1[c6000] -> 4[c1000] [send]    via NET/Socket/1 comm 0x... nRanks 08", "socket", False),  # RCCL
        ("Channel 00/0 : 1[0] -> 0[0] [receive] via NET/NCCL RDMA Plugin v10/0", "ib", False),  # HPC-X on DGX Spark
        ("Ring 00 : 2 -> 0 via NET/IB/0/GDRDMA", "ib", True),  # NCCL 2.3
    ],
)
def test_channel_tails(line: str, transport: str, gdr: bool) -> None:
    got = labels(parse_log(one(line)))
    assert (got["transport"], got["gdr"], got["confirmed_by_channels"]) == (transport, gdr, True)


def test_rccl_tail_gives_the_ranks_and_a_cut_one_is_damage() -> None:
    line = "Channel 01/0 : 9[21000] -> 0[17000] [receive] via NET/IB/0/GDRDMA comm 0x5609 nRanks 32"
    assert labels(parse_log(one(line)))["nranks"] == 32
    assert parse_log(one(line[:-10])).damaged_channels


@pytest.mark.parametrize(("mode", "proven"), [("IBext_v10", True), ("UCX", False), (None, False)])
def test_hpcx_plugin_under_its_own_name(mode: str | None, proven: bool) -> None:
    log = Synthetic("2.27.5").all().replace(b"NET/IB/", b"NET/NCCL RDMA Plugin v10/")
    if mode:
        log = one(f"P2P plugin v10 {mode}").replace(b"node1", b"h20-a") + log
    assert (verdict(log).verdict == "rdma_proven") is proven


def test_verbs_plugins_list_devices_under_their_own_name() -> None:
    got = labels(parse_log(one("NET/gIB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/RoCE [RO]; OOB eth0:10.0.0.3<0>", "Using network gIB")))
    assert (got["hcas"], got["roce"], got["oob_interface"]) == (["mlx5_0:1", "mlx5_1:1"], True, "eth0")
    sockets = labels(parse_log(one("NET/FastSocket : Using [0]eth0:10.0.0.3<0> [1]eth1:10.0.1.3<0>")))
    assert (sockets["hcas"], sockets["roce"]) == ([], None)


@pytest.mark.parametrize(
    ("said", "transport"),
    [
        ("Connected after 12 retries.", "socket"),
        ("Connected data socket 3", "socket"),
        ("Accepted data socket 0", "socket"),
        ("Async connect done", "socket"),
        ("Flow placement enabled.", "undetermined"),
        ("Tx CPU start: -2", "undetermined"),
    ],
)
def test_what_fastsocket_connected_is_tcp_and_what_it_found_is_nothing_yet(said: str, transport: str) -> None:  # NVIDIA/nccl#651
    two = one(f"NET/FastSocket : {said}", "comm 0x5500 rank 0 nRanks 2 nNodes 2 localRanks 1 localRank 0 MNNVL 0")
    assert labels(parse_log(two))["transport"] == transport


@pytest.mark.parametrize("nodes", ["nNodes 1 localRanks 4", "nNodes 2 localRanks 2"])  # NCCL counts an NVLink domain as one node
def test_nvlink_between_nodes_is_no_network(nodes: str) -> None:
    text = Synthetic("2.28.9").all().decode().replace("MNNVL 0", "MNNVL 1").replace("nNodes 2 localRanks 2", nodes)
    over_nvlink = re.sub(r"\[(?:send|receive)\] via NET/\S+", "via P2P/MNNVL", text)
    job = verdict(over_nvlink.encode())
    assert (job.verdict, "NVLink between nodes, and none a network" in job.reason) == ("undetermined", True)
    inside = verdict(over_nvlink.replace("P2P/MNNVL", "P2P/CUMEM").encode())
    assert "NVLink between nodes" not in inside.reason
    mixed = verdict(re.sub(r"\[(?:send|receive)\] via NET/\S+", "via P2P/MNNVL", text, count=3).replace("NET/IB/", "NET/Socket/").encode())
    assert "NVLink between nodes" not in mixed.reason


def test_network_and_devices_in_the_words_of_2_3() -> None:  # horovod#639
    log = one("NET/IB: [0] mlx5_0:1/IB ", "NET/IB: [1] mlx5_1:1/IB ", "Using internal Network IB", "rank 0 nranks 3")
    got = labels(parse_log(log + one("NET/IB: [0] mlx5_0:1/IB ").replace(b":10:", b":11:")))
    assert (got["network_selected"], got["hcas"], got["roce"], got["nranks"]) == ("IB", ["mlx5_0:1", "mlx5_1:1"], False, 3)


def test_frame_of_a_terminal_interface() -> None:  # NVIDIA/nccl#733
    row = "│ n1:72:91 [0] NCCL INFO Channel 00 : 4[cb000] -> 0[92000] [send] via NET/IB/2       │\n"
    evidence = parse_log(row)
    assert labels(evidence)["gdr"] is False
    assert evidence.hosts == {"n1"}
    cut = parse_log("│ n1:72:91 [0] NCCL INFO Channel 00 : 4[cb000] -> 0[92000] [send] via NET/IB/2/GD│\n")
    assert cut.damaged_channels


def test_a_collective_with_its_ranks_is_seen() -> None:
    line = "AllReduce: opCount 0 sendbuff 0x7f count 1 datatype 7 op 0 root 0 comm 0x55 [nranks=16] stream 0x55"
    evidence = parse_log(one(line))
    assert labels(evidence)["nranks"] == 16
    assert judge_job([evidence]).collective


def test_hosts_whose_ranks_continue_are_one_job() -> None:  # huggingface/accelerate#1317
    def local(host: str, src: int) -> str:
        return f"10.0.0.9: {host}:{src + 1}:5 [0] NCCL INFO Channel 00/0 : {src}[44000] -> {src - 1}[43000] via P2P/IPC\n"

    assert labels(parse_log(local("a", 3) + local("b", 11)))["nnodes"] == 2
    assert labels(parse_log(local("a", 3) + local("b", 3)))["nnodes"] is None


# -- seen in public threads after the corpus was made ------------------------------------------------------------------------

RAS = (
    "ras/client_support.cc:181 NCCL WARN Call to bind failed: Address already in use",
    "ras/rasnet.cc:9 (rasNet) NCCL WARN Call to accept failed",
)


@pytest.mark.parametrize("line", RAS)
def test_ras_that_gets_no_port_leaves_the_proof(line: str) -> None:
    """Every process of a host wants port 28028 for NCCL's own status service; the second one does not get it."""
    assert verdict(Synthetic("2.28.9", last=(f"src/{line}", line)).all()).verdict == "rdma_proven"
    assert parse_log(f"{line}\nNCCL INFO ras/rasnet.cc:365 -> 2\n").errors == ()  # without a head, as people paste it


def test_the_same_words_elsewhere_end_the_proof() -> None:
    line = "misc/socket.cc:409 NCCL WARN Call to bind failed: Address already in use"
    assert verdict(Synthetic("2.28.9", last=(line,)).all()).verdict == "undetermined"


@pytest.mark.parametrize("behind", ["  <- GPUDirect", '","stream":"stdout"}', " # rail 0", "; next", " | head"])
def test_text_behind_the_gdr_suffix(behind: str) -> None:
    log = one(f"Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMA{behind}")
    assert labels(parse_log(log))["gdr"] is True
    proven = Synthetic("2.28.9").all().replace(b"/GDRDMA\n", b"/GDRDMA" + behind.encode() + b"\n")
    assert verdict(proven).verdict == "rdma_proven"
    assert verdict(proven).gdr == "all"


def test_text_that_touches_the_suffix_is_damage() -> None:
    assert parse_log(one("Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/0/GDRDMAx9")).damaged_channels


def test_sharp_reductions_are_read_and_prove_nothing() -> None:  # NVIDIA/nccl-tests#311
    lines = [f"CollNet 0{i}/0 : 0 [{way}] via COLLNET/SHARP/{i}/GDRDMA" for i in (0, 1) for way in ("send", "receive")]
    got = labels(parse_log(one(*lines)))
    assert (got["transport"], got["gdr"]) == ("ib", True)
    assert verdict(one(*lines)).verdict == "undetermined"
    head = b"h20-a:1000:1500 [0] NCCL INFO "
    more = b"".join(head + line.encode() + b"\n" for line in lines)
    assert verdict(Synthetic("2.28.9").all() + more).verdict == "rdma_proven"  # beside a proven job they disturb nothing
    sockets = Synthetic("2.28.9", network=lambda rank: "Socket").all()
    assert verdict(sockets + more).verdict == "sockets"


def test_what_a_splice_left_of_a_host_name_is_no_third_host() -> None:
    whole = Synthetic("2.28.9").all()
    line = next(row for row in whole.split(b"\n") if b"[send] via NET/IB" in row)
    log = whole + line.replace(b"h20-a:", b"20-a:", 1).replace(b"Channel 00", b"Channel 01") + b"\n"
    assert parse_log(log).hosts == {"h20-a", "h20-b"}
    assert verdict(log).nodes == ("h20-a", "h20-b")


def test_a_host_whose_name_ends_another_is_still_a_host() -> None:
    """Containers number their processes alike: only a host that never names an interface or adapter of its own is a remnant."""
    job = verdict(Synthetic("2.28.9", hosts=("gpu-a", "a")).all())
    assert (job.verdict, job.nodes) == ("rdma_proven", ("a", "gpu-a"))


def test_lines_without_host_and_pid_are_told_apart() -> None:
    """Two headless lines that end in the same word are two lines (a repeat filter took them for one)."""
    log = (
        "[1] NCCL INFO Channel 00/0 : 1[1] -> 2[2] via P2P/IPC comm 0x7f2a nRanks 08\n"
        "[1] NCCL INFO Channel 01/0 : 6[2] -> 1[1] [receive] via NET/AWS Libfabric/1 comm 0x7f2a nRanks 08\n"
    )
    got = labels(parse_log(log))
    assert (got["transport"], got["gdr"], got["nranks"]) == ("ofi", False, 8)


def test_a_communicator_line_broken_in_a_word() -> None:
    line = "ncclCommInitRank comm 0x55 rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1d000 commId 0xab - Init COMP\nLETE"
    ranks = parse_log(f"n1:1:2 [0] NCCL INFO {line}\n").ranks
    assert [r.completed for r in ranks] == [True]


def test_peer_memory_that_cannot_be_opened() -> None:  # ray_lightning#24
    (error,) = parse_log(
        one("transport/p2p.cc:238 NCCL WARN failed to open CUDA IPC handle : 217 peer access is not supported").replace(
            b"NCCL INFO transport", b"transport"
        )
    ).errors
    assert error.label == "cuda failure: peer access is not supported"


def test_second_node_on_sockets_without_its_nodes_line() -> None:  # sgl-project/sglang#3398
    log = one(
        "Using network Socket", "ncclCommInitRank comm 0xaf rank 10 nranks 16 cudaDev 2 nvmlDev 2 busId a2000 commId 0x89 - Init START"
    )
    assert labels(parse_log(log))["transport"] == "socket"


@pytest.mark.parametrize(
    "line",
    [
        "NET/IBP:Got completion from peer 10.0.0.2<36315> with status=12 opcode=32698 len=32696 vendor err 129 (Send)",  # nccl#1664
        "  NET/IB: Got completion from peer 10.0.0.2<4> status=IBV_WC_RETRY_EXC_ERR(12) opcode=0 vendor_err=129 hca mlx5_0",  # nccl#2219
    ],
)
def test_a_completion_whose_head_was_not_copied(line: str) -> None:
    evidence = parse_log(line, "x")
    assert [e.label for e in evidence.errors] == ["completion status 12 (timeout)"]
    assert judge_job([evidence]).verdict == "undetermined"


@pytest.mark.parametrize("head", ["INFO ", "CL INFO ", "- ", "> ", "`", "2024-01-01 00:00:00 ", "[rank0] ", "FO "])
def test_a_channel_without_its_head_is_read(head: str) -> None:
    evidence = parse_log(f"{head}Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA\n")
    assert (labels(evidence)["transport"], labels(evidence)["gdr"]) == ("ib", True)
    assert judge_job([evidence]).verdict == "undetermined"


@pytest.mark.parametrize("ranks", ["3 -> 0", "3[12] -> 0[13]"])
def test_channels_of_2_1_have_no_number(ranks: str) -> None:
    evidence = parse_log(f"node1:10:20 [0] INFO {ranks} via NET/Socket/0\n")
    assert (labels(evidence)["transport"], judge_job([evidence]).verdict) == ("socket", "sockets")
