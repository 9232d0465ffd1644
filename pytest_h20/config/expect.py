"""What is expected of a machine (``expect:`` in the inventory), for all nodes or per node. Every field is optional.

A field that is not given is not judged: its fact is still recorded, and nodes are still compared with each other. Checks that
need no expectation (Xid, uncorrectable ECC, GID, ports ...) are judged always. ``docs/checks-environment.md`` lists which is
which.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


Priority = Annotated[int, Field(ge=0, le=7)]


class SwitchPort(BaseModel):
    """What a switch port was given: the priorities with PFC, and those that it marks (ECN). None: nobody says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pfc: tuple[Priority, ...] | None = Field(None, description="priorities for which the port has PFC")
    ecn: tuple[Priority, ...] | None = Field(None, description="priorities in whose queues the switch marks packets (ECN)")


class Expect(BaseModel):
    """Expectations of one node, or of all. ``merged`` lays a node's own over the common ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The machine
    os: str | None = Field(None, description="the operating system's name begins with this, e.g. 'CentOS Linux release 7.6'")
    kernel: str | None = Field(None, description="the kernel release begins with this, e.g. '4.19.0'")
    uptime_min_hours: Positive | None = Field(None, description="hours since the last boot, at least")
    numa_balancing: bool | None = Field(None, description="automatic NUMA balancing on (true) or off (false)")
    cpu_governor: str | None = Field(None, description="cpufreq governor of every core, e.g. 'performance'")
    transparent_hugepages: tuple[str, ...] | None = Field(None, description="accepted settings, e.g. ['madvise', 'always']")
    swap_used_max_mib: Count | None = Field(None, description="swap in use, at most, MiB")
    timezone: str | None = Field(None, description="UTC offset of the node, e.g. '+0800'")
    clock_skew_max_s: Positive = Field(1.0, description="clocks of two nodes may differ by this many seconds (no engine needs less)")
    clock_to_us_max_s: Positive = Field(60.0, description="a node's clock may differ from ours by this many seconds")

    # Driver and GPUs
    driver: str | None = Field(None, description="NVIDIA driver version begins with this, e.g. '535.216.03'")
    driver_min: str | None = Field(None, description="NVIDIA driver version at least, e.g. '535.104'")
    cuda: str | None = Field(None, description="CUDA version that the driver offers begins with this, e.g. '12.2'")
    gpu_count: Count | None = Field(None, description="number of GPUs")
    gpu_model: str | None = Field(
        None, description="GPU product, e.g. 'H20': neither H20-3e nor H200; 'H100' is 'NVIDIA H100 80GB HBM3', too"
    )
    gpu_pci_ids: tuple[str, ...] | None = Field(None, description="accepted PCI device ids, four hex digits, e.g. ['2329']")
    gpu_memory_min_mib: Count | None = Field(None, description="memory per GPU, at least, MiB")
    gpu_idle_max_mib: Count = Field(1024, description="memory in use per GPU before the engine starts, at most, MiB")
    gpu_ecc: bool | None = Field(None, description="ECC on")
    gpu_remapped_rows_max: Count = Field(64, description="rows that a GPU may have remapped; 512 are all that it can")
    gpu_persistence: bool | None = Field(None, description="persistence mode on")
    gpu_power_limit_w: Positive | None = Field(None, description="power limit per GPU, W; default: the card's own default limit")
    gpu_clock_mhz: Count | None = Field(None, description="application clock of the SMs, MHz; default: the card's maximum")
    gpu_temperature_max_c: Count | None = Field(None, description="GPU temperature before the run, at most, degrees C")
    gpu_temperature_spread_c: Count | None = Field(None, description="hottest less coldest GPU of a node, at most, degrees C")
    nvlinks: Count | None = Field(None, description="active NVLinks per GPU (18 on Hopper with NVSwitch)")
    fabric_manager: bool | None = Field(None, description="fabric manager must be active (NVSwitch machines)")
    gpu_pcie_gen: Count | None = Field(None, description="PCIe generation the GPU link must be capable of")
    gpu_pcie_width: Count | None = Field(None, description="PCIe lanes of each GPU; default: its maximum")

    # Containers
    docker_min: str | None = Field(None, description="docker version, at least")
    storage_driver: str | None = Field(None, description="docker's storage driver, e.g. 'overlay2'")
    nvidia_runtime: bool | None = Field(None, description="the NVIDIA container runtime or toolkit must be installed")
    docker_free_gib: Positive | None = Field(None, description="free space where docker keeps images and containers, GiB")
    run_free_gib: Positive = Field(5.0, description="free space for the logs of a run, GiB")
    image_digest: str | None = Field(None, description="the image's id or repo digest contains this")
    engine_version: str | None = Field(None, description="version of the engine in the image begins with this")
    torch_version: str | None = Field(None, description="version of torch in the image begins with this")
    nccl_version: str | None = Field(None, description="version of NCCL in the image begins with this")
    cuda_runtime: str | None = Field(None, description="CUDA version torch in the image was built with begins with this")
    memlock_unlimited: bool = Field(True, description="the container must be able to lock any amount of memory (RDMA needs it)")
    nofile_min: Count | None = Field(None, description="open files in the container, at least; default: what the profile asks for")
    stack_min_kib: Count | None = Field(None, description="stack in the container, at least, KiB; default: what the profile asks for")
    shm_min_gib: Positive | None = Field(None, description="/dev/shm in the container, at least, GiB; default: the profile's shm_size")

    # Network
    mtu: Count | None = Field(None, description="MTU of the control interface")
    firewall: bool | None = Field(None, description="false: no active firewall service and no dropping rule on the node")
    proxy: bool = Field(False, description="true: proxy variables in the container are intended")
    hostname_resolves: bool | None = Field(None, description="true: the host name must resolve to the engine's address")

    # Fabric
    rails: Count | None = Field(None, description="rails of a node; default: one per GPU, or per equal group of GPUs (a warning)")
    rail_rate_gbps: Positive | None = Field(None, description="line rate of every rail, Gbit/s (a rail's own rate_gbps goes first)")
    rail_width: Count | None = Field(None, description="lanes of every rail's port, e.g. 4")
    rail_mtu: Count | None = Field(None, description="MTU of every rail's net device, e.g. 4200 or 9000")
    firmware: str | None = Field(None, description="firmware of every rail's HCA begins with this")
    gpudirect: bool | None = Field(None, description="the NIC must reach GPU memory (nvidia_peermem, or dma-buf)")
    acs_off: bool | None = Field(None, description="true: no PCIe bridge may redirect peer traffic (ACS)")
    rail_distance: tuple[str, ...] | None = Field(
        None, description="accepted distances of each rail to its nearest GPU, e.g. ['PIX', 'PXB']"
    )
    link_down_max_per_day: Count = Field(0, description="link-down events per rail in the last 24 hours, at most")
    qos_trust: str | None = Field(None, description="QoS trust state of every rail, 'dscp' or 'pcp'")
    pfc: str | None = Field(None, description="PFC per priority as mlnx_qos prints it, e.g. '0 0 0 1 0 0 0 0'")
    lossless: bool | None = Field(
        None,
        description="true: the priority that NCCL sends in has PFC and ECN on every rail; false: it may drop; default: PFC or ECN, and not "
        "PFC on another priority alone",
    )
    switch_ports: dict[str, SwitchPort] = Field(
        default_factory=dict,
        description="what the switch ports behind the rails were given, e.g. {'leaf-*': {pfc: [3], ecn: [3]}}; by 'SWITCH PORT' as LLDP "
        "tells it or 'NODE HCA', * as wildcard; the first that fits",
    )
    ib_write_bw: bool | None = Field(None, description="true: must be measured; false: never run; default: run where it is installed")
    ib_write_bw_min: float = Field(
        0.9, gt=0, le=1, description="ib_write_bw, at least this part of the line rate (64 KiB messages, best of 3)"
    )
    rails_together_min: float = Field(
        0.9, gt=0, le=1, description="all rails of a node at once, at least this part of the sum of single ones"
    )
    rails_apart_min: float = Field(
        0.9,
        gt=0,
        le=1,
        description="each rail beside the others, at least this part of the median of all rails (latency: twice it at most)",
    )
    all_reduce: bool | None = Field(None, description="true: must be measured; false: never run; default: run where the tools are")
    all_reduce_image: str | None = Field(None, description="image with mpirun and all_reduce_perf; default: the engine's own torch")
    all_reduce_busbw_min: Positive | None = Field(
        None, description="all-reduce bus bandwidth at the largest size, GB/s; default: 24 per 200 Gbit/s of rail, together"
    )

    weights_full: bool | None = Field(
        None, description="true: hash every file of the model (minutes once, then cached on the node); default: only the fast check"
    )

    weights_cache_max_days: float = Field(
        7.0, ge=0, description="hashes of the full check that are older are computed again, days; 0: always read every file"
    )

    unmeasured_ok: tuple[str, ...] = Field(
        (),
        description="check ids (* as wildcard) that may stay unmeasured here: skipped instead of 'could not measure'",
    )

    def merged(self, own: Expect) -> Expect:
        """These expectations with every field that ``own`` sets explicitly taken from it."""
        return self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
