"""Parsers on recorded output: a real H100 under R580, the write-up's show_gids, public listings; hypothesis for the rest."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.engines.layout import Layout
from pytest_h20.probes import clock, counters, gid, gpu, host, image, kernel_log, net, perf, rdma
from pytest_h20.probes.model_shape import ModelShape
from pytest_h20.probes.script import Probe, ProbeError, build, split
from pytest_h20.rehearsal.standin import answer, machine, sections
from tests.unit.probes.cluster import blog_cluster

R1 = ModelShape("deepseek_v3", 61, 7168, 2)
DATA = Path(__file__).parent / "data"


def data(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def test_a_real_h100_under_r580() -> None:
    """Recorded with ``nvidia-smi -q -x`` on an H100 (driver 580.159.04); uuid and serial zeroed, supported clocks cut."""
    g = gpu.parse_gpus(data("nvidia-smi-q-h100-r580.xml"))
    assert (g.driver, g.cuda, g.source, len(g.gpus)) == ("580.159.04", "13.0", "xml", 1)
    one = g.gpus[0]
    assert (one.name, one.pci_device_id, one.pci_address) == ("NVIDIA H100 80GB HBM3", "2330", "0000:00:06.0")
    assert (one.memory_mib, one.memory_used_mib) == (81559, 0)
    assert (one.persistence, one.mig, one.ecc, one.compute_mode) == (True, False, True, "Default")
    assert (one.ecc_uncorrectable, one.remap_pending, one.remap_failure, one.retired_pages) == (0, False, False, None)
    assert one.throttle == ("gpu_idle",)
    assert (one.temperature, one.power_draw, one.power_limit, one.power_limit_default) == (36, 71.59, 700.0, 700.0)
    assert (one.sm_clock, one.app_clock, one.max_clock) == (345, 1980, 1980)
    assert (one.pcie_gen, one.pcie_gen_max, one.pcie_width, one.pcie_width_max, one.pcie_replays) == (5, 5, 16, 16, 1)
    assert (one.fabric_state, one.processes) == ("", ())


def test_the_names_of_older_drivers_are_known() -> None:
    old = """<nvidia_smi_log><driver_version>470.82</driver_version><gpu id="00000000:1B:00.0"><product_name>NVIDIA A100</product_name>
    <clocks_throttle_reasons><clocks_throttle_reason_hw_slowdown>Active</clocks_throttle_reason_hw_slowdown></clocks_throttle_reasons>
    <power_readings><power_draw>60.1 W</power_draw><power_limit>400.00 W</power_limit></power_readings>
    <retired_pages><double_bit_retirement><retired_count>2</retired_count></double_bit_retirement>
    <pending_retirement>Yes</pending_retirement></retired_pages>
    <processes><process_info><pid>12</pid><process_name>a</process_name><used_memory>N/A</used_memory></process_info></processes>
    </gpu></nvidia_smi_log>"""
    one = gpu.parse_gpus(old).gpus[0]
    assert one.throttle == ("hw_slowdown",)
    assert (one.power_draw, one.power_limit) == (60.1, 400.0)
    assert (one.retired_pages, one.retired_pending) == (2, True)
    assert one.processes == (gpu.GpuProcess(12, "a", None),)


def test_the_short_form_of_a_stand_in() -> None:
    text = f"#csv {gpu.CSV_FIELDS}\n0, NVIDIA H20, GPU-1, 00000000:01:00.0, 97871, 4, 535.216.03, Enabled, 30, 70.00\n"
    g = gpu.parse_gpus(text)
    assert (g.source, g.driver, g.gpus[0].memory_mib, g.gpus[0].persistence) == ("csv", "535.216.03", 97871, True)


def test_a_broken_driver_is_refused() -> None:
    with pytest.raises(ProbeError, match="couldn't communicate"):
        gpu.parse_gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")


def test_nvlinks_of_a_public_listing() -> None:
    text = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-4)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\nGPU 1: X (UUID: GPU-5)\n"
    assert gpu.parse_nvlinks(text).links == ((0, (26.562, None)), (1, ()))


def test_driver_module_of_the_recorded_machine() -> None:
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)"
    d = gpu.parse_driver(f"nvrm={line}\nmodule=nvidia\nmodule=nvidia_uvm\ndmabuf=yes\n")
    assert (d.version, d.open_kernel, d.peermem, d.dmabuf_kernel) == ("580.159.04", True, "", True)


def test_topology_with_colours_and_aliases() -> None:
    text = "\t\x1b[4mGPU0\tNIC0\tCPU Affinity\x1b[0m\nGPU0\t X \tPIX\t0-15\nNIC0\tPIX\t X \t\n\nLegend:\n\n  X    = Self\n\nNIC0: mlx5_3\n"
    assert gpu.parse_topology(text)["mlx5_3", "GPU0"] == "PIX"


def test_the_write_ups_show_gids_and_ibdev2netdev() -> None:
    gids = rdma.parse_show_gids(data("show_gids-node01.txt"))
    assert len(gids) == 36
    mine = [g for g in gids if g.device == "mlx5_3"]
    assert [(g.index, g.version, g.ipv4) for g in mine] == [
        (0, "v1", ""),
        (1, "v2", ""),
        (2, "v1", "33.2.161.15"),
        (3, "v2", "33.2.161.15"),
    ]
    right = gid.best(mine)
    assert right is not None
    assert (right.index, right.netdev) == (3, "xgbe3")
    assert rdma.parse_ibdev2netdev(data("ibdev2netdev-node01.txt"))["mlx5_3", 1] == ("xgbe3", True)


def test_gid_scores_are_in_the_order_that_routes() -> None:
    def g(index: int, address: str, kind: str = "RoCE v2", netdev: str = "e") -> gid.Gid:
        return gid.Gid("m", 1, index, address, kind, netdev)

    mapped, world = g(5, "0000:0000:0000:0000:0000:ffff:0a00:0001"), g(4, "2001:0db8:0000:0000:0000:0000:0000:0001")
    local, old = g(1, "fe80:0000:0000:0000:0000:0000:0000:0001"), g(0, "0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1")
    ordered = sorted([old, local, world, mapped], key=gid.score, reverse=True)
    assert ordered == [mapped, world, local, old]
    assert gid.best([old]) is None
    assert gid.best([mapped, g(3, "0000:0000:0000:0000:0000:ffff:0a00:0001")]) == g(3, "0000:0000:0000:0000:0000:ffff:0a00:0001")
    second = g(7, "0000:0000:0000:0000:0000:ffff:0a00:0002")
    assert gid.best([mapped, second], address="10.0.0.2") == second


def test_soft_roce_has_no_pcie_no_type_and_index_1() -> None:
    text = (
        "hca\tmlx5_0\t\t\t\t5054:00ff:fe99:0001\t\t\nport\tmlx5_0\t1\t4: ACTIVE\t5: LinkUp\tEthernet\t2.5 Gb/sec (1X SDR)\n"
        "gid\tmlx5_0\t1\t0\tfe80:0000:0000:0000:5054:00ff:fe99:0001\tRoCE v2\teth1\n"
        "gid\tmlx5_0\t1\t1\t0000:0000:0000:0000:0000:ffff:0a63:0101\tRoCE v2\teth1\n"
    )
    r = rdma.parse_rdma(text)
    p = r.port("mlx5_0")
    assert p is not None
    assert (p.state, p.phys, p.rate_gbps, p.width) == ("ACTIVE", "LinkUp", 2.5, 1)
    right = gid.best(r.port_gids("mlx5_0"))
    assert right is not None
    assert right.index == 1


def test_kernel_log_lines_of_real_machines() -> None:
    text = (
        "source=dmesg\nfirst=0\n"
        "> [   12.5] NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping, reset gpu to activate.\n"
        "> [  900.1] NVRM: Xid (0000:03:00): 14, Channel 00000001\n"
        "> [  901.2] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)\n"
        "> [ 1000.0] mlx5_core 0000:9a:00.0 xgbe5: Link down\n> [ 1003.0] mlx5_core 0000:9a:00.0 xgbe5: Link up\n"
        "> [ 1004.0] bnxt_en 0000:1a:00.0 eth0: NIC Link is Down\n> [ 1.0] something else\n"
    )
    log = kernel_log.parse_kernel_log(text)
    assert [(e.kind, e.code, e.device) for e in log.events] == [
        ("xid", 63, "0000:10:1c"),
        ("xid", 14, "0000:03:00"),
        ("sxid", 28006, "0000:c1:00.0"),
        ("link", 0, "xgbe5"),
        ("link", 1, "xgbe5"),
        ("link", 0, "eth0"),
    ]
    assert kernel_log.explain_xid(79).severity == "fatal"
    assert kernel_log.explain_xid(12345).severity == "watch"


def test_ports_of_an_old_and_a_new_ss() -> None:
    text = 'listen\t*:8000\tusers:(("python3",pid=7,fd=3))\nlisten\t[::]:22\t\nlisten\t0.0.0.0:30000\tusers:(("a b",99,3))\ntotal=9\n'
    assert [(x.port, x.owner) for x in net.parse_listeners(text)] == [(8000, "python3 (pid 7)"), (22, ""), (30000, "a b (pid 99)")]
    with pytest.raises(ProbeError, match="total"):
        net.parse_listeners("")


def test_credentials_of_a_proxy_are_masked() -> None:
    p = host.parse_proxies("proxy HTTP_PROXY=http://user:secret@proxy:3128\nproxy no_proxy=10.0.0.0/8\n")
    assert "secret" not in str(p)
    assert p.active == {"http_proxy": "http://***@proxy:3128"}


def test_credentials_do_not_leave_the_node() -> None:
    import subprocess

    env = {"PATH": "/usr/bin:/bin", "https_proxy": "http://user:secret@proxy:3128", "HOME": "/nonexistent"}
    out = subprocess.run(["sh", "-c", build([host.PROXIES])], env=env, capture_output=True, text=True, check=True).stdout
    assert "secret" not in out
    fact = host.PROXIES.read(split(out))
    assert isinstance(fact, host.Proxies)
    assert fact.get("https_proxy") == "http://***@proxy:3128"


def test_clock_offset_and_its_error() -> None:
    read = clock.offset_of(100.0, 100.2, clock.ClockReading(105.3, "yes"))
    assert read.offset == pytest.approx(5.2)
    assert read.error == pytest.approx(0.1)
    coarse = clock.offset_of(100.0, 100.2, clock.ClockReading(100.0, ""))
    assert coarse.error == pytest.approx(0.6)
    assert abs(coarse.offset) <= coarse.error
    assert clock.between(read, read)[0] == 0.0
    assert clock.between(read, read)[1] == pytest.approx(0.2)


@settings(deadline=None)
@given(st.floats(0, 10), st.floats(0, 10), st.floats(-1e6, 1e6), st.floats(0, 1))
def test_the_true_offset_is_within_the_error(go: float, back: float, skew: float, when: float) -> None:
    sent, received = 1000.5, 1000.5 + go + back
    reading = clock.ClockReading(sent + go + skew, "")
    measured = clock.offset_of(sent, received, reading)
    assert abs(measured.offset - skew) <= measured.error + 1e-6


def test_engine_address_rules() -> None:
    assert image.address_rule("vllm", "0.8.2") == "vllm"
    assert image.address_rule("sglang", "0.4.4.post3") == "sglang"
    assert image.address_rule("sglang", "0.5.2") == "sglang"
    assert image.address_rule("sglang", "0.5.3") == "sglang-0.5.3"
    assert image.address_rule("sglang", "") == "sglang-0.5.3"


def test_the_engine_address_snippet_runs_here() -> None:
    import os
    import subprocess

    env = {**os.environ, "VLLM_HOST_IP": "192.0.2.77", "HOST_IP": "192.0.2.78"}
    env.pop("SGLANG_HOST_IP", None)
    out = subprocess.run(["sh", "-c", build([image.ENGINE_ADDRESS])], env=env, capture_output=True, text=True, check=True).stdout
    fact = image.ENGINE_ADDRESS.read(split(out))
    assert isinstance(fact, tuple)
    by = {(a.rule, a.with_env): (a.address, a.how) for a in fact}
    assert by["vllm", True] == ("192.0.2.77", "VLLM_HOST_IP")
    assert by["sglang", True] == ("192.0.2.78", "HOST_IP")
    assert by["vllm", False][1] in ("route to 8.8.8.8", "IPv6 route", "nothing found")
    assert len(by) == 6


def test_listen_and_connect_work_here_and_refusals_are_told() -> None:
    import os
    import signal
    import subprocess

    def run(probe: Probe[object]) -> object:
        out = subprocess.run(["sh", "-c", build([probe])], capture_output=True, text=True, check=True, timeout=60).stdout
        return probe.read(split(out))

    listening = run(net.LISTEN.with_args(30, 0, 0))
    assert isinstance(listening, net.Listening)
    try:
        ports = [p for _, p in listening.bound]
        again = run(net.LISTEN.with_args(1, ports[0]))
        assert isinstance(again, net.Listening)
        assert [asked for asked, _ in again.errors] == [ports[0]]
        answers = run(net.CONNECT.with_args("127.0.0.1", ports[0], "127.0.0.1", ports[1], "127.0.0.1", 1))
        assert isinstance(answers, tuple)
        assert {c.port: c.outcome for c in answers} == {ports[0]: "ok", ports[1]: "ok", 1: "refused"}
    finally:
        os.kill(listening.pid, signal.SIGTERM)


PERF_JSON = """{
 "test_info": {"test": "RDMA_Write_BW_Test", "Device": "mlx5_11", "Link_type": "Ethernet", "GID_index": 1},
 "results": {"MsgSize": 65536, "n_iterations": 5000, "BW_peak": 5293.52, "BW_average": 2229.27, "MsgRate": 0.035668}
}"""

PERF_TABLE = """---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]
 65536      1114620          0.00               194.78             0.371513
---------------------------------------------------------------------------------------
"""


def test_ib_write_bw_json_and_table() -> None:
    assert perf.parse_ib_write_bw(PERF_JSON) == perf.WriteBandwidth(2229.27, 5293.52, 65536, 1)
    assert perf.parse_ib_write_bw_table(PERF_TABLE).average_gbps == 194.78
    runs = perf.parse_ib_client(f"run\t0\tjson\n{PERF_JSON}\nrun\t1\ttable\n{PERF_TABLE}\nrun\t2\tfailed\n Unable to init the socket\n")
    assert [r.average_gbps if isinstance(r, perf.WriteBandwidth) else str(r) for r in runs] == [
        2229.27,
        194.78,
        "Unable to init the socket",
    ]
    with pytest.raises(ProbeError, match="should"):
        perf.parse_ib_client(f"run\t1\tjson\n{PERF_JSON}\n")


def test_ib_write_lat_json_and_table() -> None:
    """The forms of 4.5-0.17 (bare words) and of today, and the console's; figures of ours."""
    old = "{\nresults: {\nMsgSize: 8,\nn_iterations: 1000,\nt_min: 1.80,\nt_max: 9.00,\nt_typical: 1.91,\nt_avg: 1.95,\n"
    old += "t_stdev: 0.1,\npercentile_99: 2.40,\npercentile_99.9: 8.00,\n},\n}\n"
    new = re.sub(r"(?m)^([A-Za-z][\w.]*):", r'"\1":', old).replace(",\n}", "\n}")
    head = (
        " #bytes #iterations t_min[usec] t_max[usec] t_typical[usec] t_avg[usec] t_stdev[usec] 99% percentile[usec] 99.9% percentile[usec]"
    )
    table = f"{head}\n 8 1000 1.80 9.00 1.91 1.95 0.10 2.40 8.00\n"
    assert json.loads(new)
    for kind, text in (("json", old), ("json", new), ("table", table)):
        assert perf.parse_ib_client(f"run\t0\t{kind}\n{text}") == (perf.Latency(1.91),)
    for kind, text in (("json", old), ("table", table)):
        [nothing] = perf.parse_ib_client(f"run\t0\t{kind}\n{text.replace('1000', '0')}")
        assert "0 messages" in str(nothing)


@pytest.mark.parametrize("text", ["", "{", '{"results": {}}', '{"results": {"BW_average": NaN}}', '{"results": {"BW_average": 0}}'])
def test_a_failed_ib_write_bw_is_no_measurement(text: str) -> None:
    with pytest.raises(ProbeError):
        perf.parse_ib_write_bw(text)


def test_a_header_without_a_row_is_no_measurement() -> None:
    with pytest.raises(ProbeError, match="no row"):
        perf.parse_ib_write_bw_table(PERF_TABLE.replace("65536", "Completion"))


def nccl_tests(points: dict[int, tuple[float, float]]) -> str:
    """As nccl-tests 2.17+ writes with -J (file version 3)."""
    results = [
        {
            "size": s,
            "count": s // 4,
            "type": "float",
            "redop": "sum",
            "root": "-1",
            "out_of_place": {"time": t, "alg_bw": b / 1.875, "bus_bw": b, "nwrong": 0.0},
            "in_place": {"time": t, "alg_bw": b / 1.875, "bus_bw": b, "nwrong": 0.0},
        }
        for s, (t, b) in points.items()
    ]
    config = {"nthreads": 1, "ngpus": 1, "devices": [{"rank": i, "hostname": "node01"} for i in range(16)]}
    return json.dumps(
        {"version": 3, "nccl_version": 22105, "config": config, "results": results, "out_of_bounds": {"count": 0, "okay": "true"}}
    )


def test_all_reduce_json_limit_and_cost_per_token() -> None:
    a = perf.parse_all_reduce(nccl_tests({8192: (30.0, 0.5), 16384: (32.0, 0.96), 1 << 30: (12000.0, 168.0)}))
    assert (a.tool, a.ranks, a.nccl) == ("nccl-tests", 16, "22105")
    assert a.largest is not None
    assert a.largest.busbw == 168.0
    cost = perf.predicted_tpot_ms(a, 1, R1)
    assert cost is not None
    assert 123 * 30.0 / 1000 < cost < 123 * 32.0 / 1000
    assert a.time_us(4096) is None
    floor, why = perf.busbw_floor([200.0] * 8)
    assert floor == 192.0
    assert "nccl-tests issue 119" in why


@pytest.mark.parametrize("text", ["", "[]", '{"results": []}', '{"results": [{"size": 8}]}', '{"results": [{"size": 8, "in_place": {}}]}'])
def test_an_all_reduce_without_figures_is_refused(text: str) -> None:
    with pytest.raises(ProbeError):
        perf.parse_all_reduce(text)


def test_command_lines() -> None:
    server = perf.perftest_argv("ib_write_bw", "mlx5_1", 1, 3, 18515)
    assert perf.perftest_argv("ib_write_bw", "mlx5_1", 1, 3, 18515, "33.2.160.16") == [*server, "33.2.160.16"]
    assert server[:5] == ["ib_write_bw", "-d", "mlx5_1", "-i", "1"]
    assert server[-2:] == ["-x", "3"]
    argv = perf.all_reduce_perf_argv({"10.0.0.1": 8, "10.0.0.2": 8}, "/tmp/x.json", {"NCCL_SOCKET_IFNAME": "xgbe0"})
    assert argv[argv.index("-np") + 1] == "16"
    assert "10.0.0.1:8,10.0.0.2:8" in argv
    assert argv[-2:] == ["-J", "/tmp/x.json"]


def test_counters_are_bytes_and_deltas_know_a_reset() -> None:
    def snap(at: float, words: int, seq: int) -> counters.CounterSnapshot:
        return counters.parse_counters(
            f"at\t{at}\ncounter\tmlx5_1\t1\tport_xmit_data\t{words}\ncounter\tmlx5_1\t1\tport_rcv_data\t{words}\n"
            f"counter\tmlx5_1\t1\tout_of_sequence\t{seq}\ncounter\tmlx5_1\t1\tnp_cnp_sent\t{seq * 2}\n"
        )

    (d,) = counters.delta(snap(10.0, 100, 5), snap(12.5, 350, 7))
    assert (d.sent, d.received, d.seconds) == (1000, 1000, 2.5)
    assert d.errors == {"out_of_sequence": 2}
    assert d.congestion == {"np_cnp_sent": 4}
    (r,) = counters.delta(snap(10.0, 100, 5), snap(12.5, 50, 5))
    assert r.sent is None
    assert r.reset == ("port_rcv_data", "port_xmit_data")
    assert not r.errors


def volume(layout: Layout) -> counters.ExpectedVolume:
    return counters.expected_volume(1000, 8, R1, layout)


def test_volume_of_tensor_parallelism() -> None:
    v = volume(Layout(16, nodes=2))
    assert v.bytes_per_node == pytest.approx(123 * 1000 * 7168 * 2 * 2 * 15 / 16)
    assert v.bytes_per_rail == pytest.approx(v.bytes_per_node / 8)
    assert v.of_rail(1) == (v.bytes_per_rail, v.bytes_per_rail)
    assert volume(Layout(8)).bytes_per_node == 0


def test_a_pipeline_sends_one_way_and_its_last_stage_nothing() -> None:
    hop = 2 * 1000 * 7168 * 2
    v = volume(Layout(8, 4, nodes=4))
    assert v.of_nodes == ((hop, 0), (hop, hop), (hop, hop), (0, hop))
    assert v.of_rail(0) == (hop / 8, 0)
    assert v.of_rail(3) == (0, hop / 8)
    assert "from stage to stage" in v.derivation


def test_stages_of_two_nodes_reduce_and_hand_on() -> None:
    """TP16 x PP2 on four nodes: half of the layers on each stage, the embedding on the first; each node of a stage hands on a half."""
    ring, hop = 2 * 15 / 16 * 1000 * 7168 * 2, 2 * 1000 * 7168 * 2
    v = volume(Layout(16, 2, nodes=4))
    assert v.of_nodes[0] == pytest.approx((62 * ring + hop / 2, 62 * ring))
    assert v.of_nodes[3] == pytest.approx((61 * ring, 61 * ring + hop / 2))


def test_dp_attention_moves_between_half_and_all_groups() -> None:
    v = volume(Layout(16, attention=16, experts=16, nodes=2))
    assert v.bytes_per_node == pytest.approx(61 * 2 * 15 / 16 * 1000 * 7168 * 2)
    assert (v.least, v.most) == (0.5, 48.0)


EXPERTS = ModelShape("deepseek_v3", 61, 7168, 2, 58, 4)
TOKEN = 1000 * 7168
"""Bytes of 1,000 tokens in FP8."""


@pytest.mark.parametrize(
    ("layout", "shape", "together", "chance"),
    [
        (
            Layout(16, attention=16, experts=16, all_to_all="deepep", nodes=2),
            EXPERTS,
            58 * TOKEN * 3 * (1 - 1 / 16),
            "deepep carries",
        ),
        (Layout(32, experts=32, all_to_all="deepep", nodes=4), EXPERTS, 58 * TOKEN * 3 * 3 * (1 - (3 / 4) ** 4), "deepep carries"),
        (Layout(16, experts=16, all_to_all="deepep", nodes=2), R1, TOKEN, "deepep carries"),
        (Layout(1, replicas=16, experts=16, nodes=2, joined=True), EXPERTS, 58 * TOKEN * 3 * (1 - 1 / 16), "an all-gather over the copies"),
        (Layout(8, replicas=2, nodes=2, joined=True), EXPERTS, 58 * TOKEN * 3 * (1 - 1 / 16), "an all-gather over the copies"),
        (Layout(16, replicas=2, nodes=4), R1, 2 * 123 * TOKEN * 2 * 2 * 15 / 16, "one of 2 copies"),
        (Layout(8, 2, replicas=2, nodes=4), R1, 2 * TOKEN * 2, "one of 2 copies"),
        (Layout(6, 4, nodes=3), R1, TOKEN * 2, "a stage fills a part of a node only"),
        (Layout(4, 4, nodes=2), R1, TOKEN * 2, "a stage fills a part of a node only"),
    ],
)
def test_where_chance_decides_of_a_rail_something_is_known_of_all(layout: Layout, shape: ModelShape, together: float, chance: str) -> None:
    found = counters.expected_volume(1000, 8, shape, layout)
    assert found.together == pytest.approx(together)
    assert found.chance.startswith(chance) or chance in found.chance
    assert found.of_rail(0) == (0, 0)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout(8, replicas=2, nodes=2), EXPERTS),
        (Layout(8, replicas=2, nodes=2, joined=True), R1),
        (Layout(8, experts=8, all_to_all="deepep", nodes=1), EXPERTS),
    ],
)
def test_copies_inside_nodes_move_nothing_between_them(layout: Layout, shape: ModelShape) -> None:
    found = counters.expected_volume(1000, 8, shape, layout)
    assert (found.together, found.chance, found.of_rail(1)) == (0, "", (0, 0))


def test_experts_of_a_stage_inside_a_node_leave_the_stages_their_sends() -> None:
    found = counters.expected_volume(1000, 8, EXPERTS, Layout(8, 2, experts=8, all_to_all="deepep", nodes=2))
    assert found == counters.expected_volume(1000, 8, EXPERTS, Layout(8, 2, nodes=2))
    assert found.of_nodes == ((2 * TOKEN * 2, 0), (0, 2 * TOKEN * 2))


def test_pci_distance_from_sysfs_paths() -> None:
    def device(path: str, numa: int | None, cls: str = "0x030200") -> rdma.PciDevice:
        text = f"pci\t{path.rsplit('/', 1)[1]}\t0x10de\t0x2329\t{cls}\tnvidia\t{numa}\t32.0 GT/s PCIe\t32.0 GT/s\t16\t16\t{path}\n"
        return next(iter(rdma.parse_pci(text).values()))

    base = "/sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0"
    near, beside = device(f"{base}/0000:17:00.0/0000:18:00.0", 0), device(f"{base}/0000:17:01.0/0000:19:00.0", 0)
    below, far = (
        device("/sys/devices/pci0000:25/0000:25:01.0/0000:26:00.0", 0),
        device("/sys/devices/pci0000:b5/0000:b5:01.0/0000:b6:00.0", 1),
    )
    assert rdma.pci_distance(near, beside) == "PIX"
    assert rdma.pci_distance(near, below) == "NODE"
    assert rdma.pci_distance(near, far) == "SYS"
    assert near.gpu
    assert near.speed == 32.0


PARSERS = [
    *(f for f in vars(gpu).values() if callable(f) and getattr(f, "__name__", "").startswith("parse_")),
    *(f for m in (host, image, kernel_log, net, rdma, counters, perf, clock) for n, f in vars(m).items() if n.startswith("parse_")),
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=300))
def test_no_text_makes_a_parser_fall(parser: object, text: str) -> None:
    assert callable(parser)
    with suppress(ProbeError):
        parser(text)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=20)
@given(cut=st.floats(0, 1), noise=st.text(max_size=20), where=st.floats(0, 1))
def test_no_damage_to_real_output_makes_a_parser_fall(parser: object, cut: float, noise: str, where: float) -> None:
    assert callable(parser)
    for text in _real_outputs():
        text = text[: int(len(text) * cut)]
        at = int(len(text) * where)
        with suppress(ProbeError):
            parser(text[:at] + noise + text[at:])


_REAL: list[str] = []


def _real_outputs() -> list[str]:
    if not _REAL:
        cluster = blog_cluster()
        m = machine(cluster.inventory, cluster.inventory.nodes[0])
        m.gpus = m.gpus[:1]
        m.rails = m.rails[:2]
        known = sections(m)
        names = ("gpus", "rdma", "network", "counters", "kernel_log", "ib_client", "pci", "show_gids", "system", "limits")
        _REAL.extend(known[name](("1", "2", "3")) for name in names)
        _REAL.append(nccl_tests({8192: (30.0, 0.5)}))
    return _REAL


def test_an_unknown_probe_is_not_installed() -> None:
    cluster = blog_cluster()
    m = machine(cluster.inventory, cluster.inventory.nodes[0])
    probe = Probe("never_heard_of", "true", str)
    assert "not in this stand-in" in str(probe.read(split(answer(m, build([probe])))))
