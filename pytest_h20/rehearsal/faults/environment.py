"""Faults of the machines: operating system, driver, GPUs, containers, network of the control plane."""

from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, expecting, gpu, ids, lost, machine, rail, says, together
from pytest_h20.rehearsal.world import World


def _xid(code: int) -> Change:
    return machine(kernel_lines=[f"[1200000.5] NVRM: Xid (PCI:0000:33:00.0): {code}, pid=4242, name=python3, GPU has fallen off the bus."])


def _kernel(line: str) -> Change:
    return machine(kernel_lines=[f"[1200000.5] {line}"])


def _gpu_lost(world: World) -> None:
    world.other.gpus.pop()


def _same_machine(world: World) -> None:
    head = world.head
    world.other.hostname, world.other.number = head.hostname, head.number


def _readdressed(world: World) -> None:
    """The inventory's host_ip belongs to no interface of the node any more."""
    world.other.address = world.other.rails[0].address = "10.63.65.99"


def _image_differs(world: World) -> None:
    name = list(world.machines)[1]
    for reference in world.images:
        world.image_ids[name, reference] = "sha256:" + "b" * 64


def _image_absent(world: World) -> None:
    name = list(world.machines)[1]
    for image in world.images.values():
        image.absent_on.add(name)


def _image_cuda_13(world: World) -> None:
    for image in world.images.values():
        image.cuda = "13.0"


def _nccl_2_27_7(world: World) -> None:
    for image in world.images.values():
        image.nccl = "2.27.7"


def _docker_down(world: World) -> None:
    name = list(world.machines)[1]
    world.daemon_down[name] = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def _no_toolkit(world: World) -> None:
    world.runtimes[list(world.machines)[1]] = ("runc",)
    says("tools", "tool\tdocker\t/usr/bin/docker\n")(world)


def _port_busy(world: World) -> None:
    world.head.listeners[8000] = 'users:(("python3",pid=777,fd=9))'


def _unreachable(world: World) -> None:
    name = list(world.machines)[1]
    world.unreachable[name] = world.daemon_down[name] = "SSH to 10.63.65.208:22: connection refused"


def _no_way_in(world: World) -> None:
    world.head.unreachable = frozenset({world.inventory.nodes[1].engine_ip})


_OTHER_NCCL = "python=3.12.3\ncuda=12.4\nnccl=2.27.3\npackage\tsglang\t0.4.4.post3\npackage\ttorch\t2.5.1\n"


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str) -> Fault:
    return Fault(name, "environment", sentence, source, change, ids("environment", red), phrase)


FAULTS = (
    # the machine
    _fault(
        "other-os",
        "One node has another operating system than expected.",
        "F39: stacks that differ",
        machine(os="Ubuntu 22.04"),
        "os",
        "Ubuntu 22.04",
    ),
    _fault(
        "other-kernel",
        "One node has another kernel than expected.",
        "F31: nvidia_peermem and dma-buf depend on the kernel",
        machine(kernel="5.4.0"),
        "kernel",
        "5.4.0",
    ),
    _fault(
        "rebooted",
        "One node was rebooted a minute ago although an uptime is expected.",
        "unattended reboots after an Xid",
        together(expecting(uptime_min_hours=1.0), machine(uptime_s=60.0)),
        "uptime",
        "rebooted",
    ),
    _fault(
        "numa-balancing",
        "Automatic NUMA balancing is on although it is expected off.",
        "SGLang's and vLLM's tuning notes",
        together(expecting(numa_balancing=False), machine(numa_balancing=1)),
        "numa_balancing",
        "sysctl",
    ),
    _fault(
        "powersave",
        "The CPU governor is powersave although performance is expected.",
        "F41: slower than published",
        together(expecting(cpu_governor="performance"), machine(governor="powersave")),
        "governor",
        "performance",
    ),
    _fault(
        "hugepages-never",
        "Transparent huge pages are off although madvise is expected.",
        "tuning notes of the engines",
        together(expecting(transparent_hugepages=("madvise",)), machine(thp="always madvise [never]")),
        "hugepages",
        "madvise",
    ),
    _fault("swapping", "A node has 4 GiB in swap.", "F50: slow loads", machine(swap_used_kib=4 * 2**20), "swap", "swap"),
    _fault(
        "time-zone",
        "The nodes' time zones differ from the expected one.",
        "logs of two ranks cannot be laid side by side",
        together(expecting(timezone="+0800"), machine(utc_offset="+0000")),
        "timezone",
        "timedatectl",
    ),
    _fault(
        "clock-skew",
        "A node's clock is 90 s ahead.",
        "issue 3; NCCL and Ray logs of two ranks cannot be compared",
        machine(clock_offset=90.0),
        "clock_skew clock_to_us",
        "chrony",
    ),
    _fault(
        "clock-unreadable",
        "A node's clock cannot be read.",
        "could not measure is no pass",
        says("clock", "now=never\n"),
        "clock_skew clock_to_us",
        "clock",
    ),
    _fault(
        "one-machine-twice",
        "Both addresses of the inventory lead to the same machine.",
        "F07: unique IP addresses",
        _same_machine,
        "distinct_machines",
        "same machine",
    ),
    _fault(
        "one-gpu-in-two-nodes",
        "Two nodes show the same GPU by its serial number, with other names, addresses and boot ids.",
        "two addresses are not two machines",
        gpu(serial="1650001000003"),
        "distinct_machines",
        "GPU serial",
    ),
    _fault(
        "one-hca-in-two-nodes",
        "Two nodes show the same HCA by its GUID.",
        "two addresses are not two machines",
        rail(guid="a288:c203:0001:0000"),
        "distinct_machines",
        "HCA GUID",
    ),
    _fault(
        "disk-full",
        "A node has 1 GiB of disk left.",
        "docker pull and logs of a run fail half way",
        machine(free_kib=2**20),
        "run_disk docker_disk",
        "GiB",
    ),
    _fault(
        "node-unreachable",
        "A node does not answer at all.",
        "could not measure is no pass",
        _unreachable,
        "reachable",
        "connection refused",
    ),
    # kernel log
    _fault("xid-79", "A GPU has fallen off the bus (Xid 79).", "NVIDIA Xid catalog", _xid(79), "xid", "power-cycle"),
    _fault(
        "sxid-fatal",
        "An NVSwitch reports a fatal error.",
        "NVIDIA fabric manager guide, SXid 20034",
        _kernel("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"),
        "sxid",
        "20034",
    ),
    _fault(
        "machine-check",
        "The kernel logged a machine check.",
        "host memory errors corrupt weights quietly",
        _kernel("mce: [Hardware Error]: Machine check events logged"),
        "memory_errors",
        "Hardware Error",
    ),
    _fault(
        "nic-health",
        "An RDMA device's firmware failed since boot.",
        "charmplusplus/charm#2635",
        _kernel("mlx5_core 0000:30:00.0: device's health compromised - reached miss count"),
        "kernel_events",
        "mlxfwmanager",
    ),
    _fault(
        "disk-error",
        "The disk with the model has I/O errors.",
        "F47, F48: bad shards",
        _kernel("blk_update_request: I/O error, dev nvme0n1, sector 4096"),
        "disk_errors",
        "I/O error",
    ),
    _fault(
        "dmesg-forbidden",
        "The kernel log may not be read.",
        "could not measure is no pass",
        lost("kernel_log"),
        "xid sxid memory_errors disk_errors kernel_events kernel_log",
        "dmesg_restrict",
    ),
    # driver and GPUs
    _fault(
        "driver-too-old",
        "The driver is older than the image's CUDA needs.",
        "F43",
        machine(driver="470.82.01"),
        "driver driver_fits_image nodes_agree",
        "525",
    ),
    _fault(
        "driver-half-updated",
        "The loaded kernel module and the user-space driver differ.",
        "F44: Error 803",
        says("driver", "nvrm=NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  x\nmodule=nvidia_peermem\ndmabuf=no\n"),
        "driver",
        "reboot",
    ),
    _fault("other-cuda", "The driver offers another CUDA than expected.", "F43", machine(cuda="12.4"), "cuda nodes_agree", "12.4"),
    _fault(
        "image-needs-cuda-13",
        "The image holds CUDA 13, the driver is R535.",
        "F43, F44",
        _image_cuda_13,
        "driver_fits_image",
        "VLLM_ENABLE_CUDA_COMPATIBILITY",
    ),
    _fault(
        "nccl-known-to-crash",
        "The image holds NCCL 2.27.7, and its RAS is not switched off.",
        "nccl#1996",
        _nccl_2_27_7,
        "known_bad",
        "NCCL_RAS_ENABLE",
    ),
    _fault("gpu-missing", "One GPU of a node is gone.", "F08, F20", _gpu_lost, "gpu_count gpus_in_container nodes_agree", "7"),
    _fault("other-gpu", "One GPU is no H20.", "mixed machines", gpu(name="NVIDIA H100 80GB HBM3"), "gpu_model nodes_agree", "H100"),
    _fault("gpu-memory", "One GPU has less memory.", "F52", gpu(memory_mib=81559), "gpu_memory nodes_agree", "81559"),
    _fault(
        "ecc-error",
        "A GPU counted an uncorrectable memory error.",
        "issue 3; NVIDIA's RMA policy",
        gpu(uncorrectable=1),
        "gpu_ecc",
        "reset",
    ),
    _fault("ecc-off", "ECC is switched off on a GPU.", "silent corruption", gpu(ecc="Disabled"), "gpu_ecc nodes_agree", "ECC"),
    _fault(
        "remap-pending", "A row remap is pending.", "NVIDIA's GPU memory error management", gpu(remap_pending="Yes"), "gpu_remap", "reset"
    ),
    _fault(
        "gpu-hot",
        "A GPU is slowed down by heat.",
        "slow rank drags TP16",
        gpu(throttle=("hw_slowdown", "hw_thermal_slowdown")),
        "gpu_throttle",
        "cooling",
    ),
    _fault(
        "gpu-clocks",
        "The application clocks are not the expected ones.",
        "slower than published (F41)",
        expecting(gpu_clock_mhz=1830),
        "gpu_clocks",
        "1830",
    ),
    _fault(
        "no-persistence",
        "Persistence mode is off although it is expected.",
        "seconds per first use of a GPU",
        together(expecting(gpu_persistence=True), gpu(persistence="Disabled")),
        "gpu_persistence",
        "nvidia-smi -pm",
    ),
    _fault(
        "power-limit",
        "The power limit is not the expected one.",
        "slower than published (F41)",
        expecting(gpu_power_limit_w=400.0),
        "gpu_power_limit",
        "400",
    ),
    _fault(
        "temperature",
        "A GPU is far hotter than the others before the run.",
        "cooling of one slot",
        together(expecting(gpu_temperature_spread_c=10), gpu(temperature=50)),
        "gpu_temperature",
        "fans",
    ),
    _fault(
        "gpu-in-use",
        "A left-over process holds GPU memory.",
        "F54, F55",
        gpu(processes=((4711, "python3", 90000),), used_mib=90000),
        "gpu_idle",
        "4711",
    ),
    _fault("gpu-mig", "MIG is on for one GPU.", "vLLM and SGLang need whole GPUs", gpu(mig="Enabled"), "gpu_mode", "MIG"),
    _fault(
        "nvlink-down",
        "One NVLink of one GPU is inactive.",
        "F33",
        gpu(nvlinks=("26.562 GB/s",) * 17 + ("<inactive>",)),
        "nvlink nodes_agree",
        "17",
    ),
    _fault(
        "fabric-manager-dead",
        "Fabric manager is not active.",
        "F33",
        says("fabric_manager", "nvswitches=4\nstate=failed\nversion=\n"),
        "fabric_manager",
        "fabric",
    ),
    _fault("gpu-pcie-x8", "One GPU runs on 8 PCIe lanes.", "GPUDirect at half speed", gpu(pcie_width=8), "gpu_pcie", "GPU 3"),
    _fault(
        "nvidia-smi-gone", "nvidia-smi does not run on a node.", "could not measure is no pass", lost("gpus"), "gpu_count", "nvidia-smi"
    ),
    # containers
    _fault(
        "docker-down",
        "The docker daemon of a node does not answer.",
        "could not measure is no pass",
        _docker_down,
        "docker",
        "Docker daemon",
    ),
    _fault("docker-old", "Docker is older than expected.", "--gpus needs 19.03", expecting(docker_min="24.0"), "docker", "24.0"),
    _fault(
        "no-container-toolkit",
        "The NVIDIA container toolkit is not installed.",
        "could not select device driver with capabilities: [[gpu]]",
        _no_toolkit,
        "nvidia_runtime",
        "toolkit",
    ),
    _fault(
        "image-missing",
        "The image is not on one node.",
        "nothing is pulled behind your back",
        _image_absent,
        "image",
        "docker pull",
    ),
    _fault(
        "image-differs", "The image under one name is not the same on both nodes.", "F09", _image_differs, "image_equal nodes_agree", "bbbb"
    ),
    _fault(
        "nccl-differs",
        "The image of one node holds another NCCL.",
        "F09, F26",
        together(expecting(nccl_version="2.21"), says("image/image_versions", _OTHER_NCCL)),
        "image_versions nodes_agree",
        "2.27.3",
    ),
    _fault(
        "memlock-limited", "The container may lock only 64 KiB of memory.", "F27", machine(memlock="64"), "memlock", "--ulimit memlock=-1"
    ),
    _fault(
        "nofile-small",
        "The container may open only 1024 files.",
        "Ray and thousands of connections",
        machine(nofile=1024),
        "nofile",
        "nofile",
    ),
    _fault("stack-small", "The container's stack limit is 8 MiB.", "the write-up's docker run", machine(stack=8192), "stack", "stack"),
    _fault("shm-small", "/dev/shm of the container has docker's 64 MiB.", "F34", machine(shm_kib=65536), "shm", "--shm-size"),
    _fault(
        "own-ipc",
        "The container does not share the host's IPC namespace.",
        "F35",
        says("image/limits", "memlock=unlimited\nnofile=120000\nstack=65536\nshm=134217728 134217728\nipc=ipc:[99]\n"),
        "ipc",
        "--ipc",
    ),
    _fault(
        "no-infiniband-in-container",
        "The container has no uverbs devices.",
        "F24",
        machine(uverbs=0),
        "rdma_in_container",
        "/dev/infiniband",
    ),
    _fault("no-libibverbs", "The image lacks libibverbs.", "F25", machine(libibverbs=False), "rdma_in_container", "libibverbs"),
    _fault("port-busy", "Somebody listens on the engine's port.", "F10, F11", _port_busy, "ports", "python3 (pid 777)"),
    _fault(
        "model-not-mounted",
        "The model's folder is not where the inventory says.",
        "wrong mount",
        machine(model_exists=False),
        "model_path",
        "model",
    ),
    # control network
    _fault("host-ip-is-nobodys", "host_ip belongs to no interface of the node.", "F05, F06", _readdressed, "engine_ip", "no interface"),
    _fault(
        "host-ip-is-ipv6",
        "The engine computes an IPv6 address for itself.",
        "F03, F04, F13",
        machine(engine_address="fd00::2"),
        "engine_ip",
        "fd00::2",
    ),
    _fault("firewall-drops", "The other node's ports are filtered.", "F14", _no_way_in, "reach", "random high ports"),
    _fault(
        "name-does-not-resolve",
        "The host name does not resolve although it must.",
        "F02",
        together(expecting(hostname_resolves=True), says("image/names", "hostname=node02\nresolved=\n")),
        "hostname",
        "/etc/hosts",
    ),
    _fault(
        "proxy-in-container",
        "A proxy variable without no_proxy is set in the container.",
        "F15",
        machine(image_proxies={"http_proxy": "http://proxy:3128", "no_proxy": "localhost"}),
        "proxy",
        "no_proxy",
    ),
    _fault(
        "firewalld",
        "firewalld runs although no firewall is expected.",
        "F14",
        together(expecting(firewall=False), machine(firewall=("firewalld",))),
        "firewall",
        "firewalld",
    ),
    _fault(
        "control-interface-down",
        "The control interface is down.",
        "F01",
        lambda w: setattr(w.other.rails[0], "state", "1: DOWN"),
        "control_interface",
        "xgbe0",
    ),
)
