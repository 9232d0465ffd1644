"""Gate ``environment``: every machine is as it must be, and the machines are alike. Facts are gathered once; each test judges
one property."""

from __future__ import annotations

import pytest

from pytest_h20.fixtures import Judge
from pytest_h20.gathering import GatheredFacts
from pytest_h20.probes.checks import compare, containers, gpus, machine, network

pytestmark = pytest.mark.h20_gate("environment")


def test_docker(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The daemon answers, is not older than ``expect.docker_min``, and uses the expected storage driver."""
    judge(*containers.docker(facts.probes.of(node_name)))


def test_nvidia_runtime(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The NVIDIA runtime is registered with docker, or its toolkit is installed (``--gpus`` needs it)."""
    judge(*containers.nvidia_runtime(facts.probes.of(node_name)))


def test_docker_disk(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The file system docker keeps its data on has at least ``expect.docker_free_gib``."""
    judge(*containers.docker_disk(facts.probes.of(node_name)))


def test_image(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The profile's image is there (nothing is pulled), and is the expected one."""
    judge(*containers.image(facts.probes.of(node_name)))


def test_image_versions(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Engine, torch, NCCL and CUDA of the image begin with what is expected."""
    judge(*containers.image_versions(facts.probes.of(node_name)))


def test_gpus_in_container(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container sees as many GPUs as the node has."""
    judge(*containers.gpus_in_container(facts.probes.of(node_name)))


def test_rdma_in_container(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container has a uverbs device per HCA of the inventory, and libibverbs."""
    judge(*containers.rdma_in_container(facts.probes.of(node_name)))


def test_memlock(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container may lock any amount of memory: RDMA registers the whole buffer (F27)."""
    judge(*containers.memlock(facts.probes.of(node_name)))


def test_nofile(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container may open as many files as expected, or as the profile asks for."""
    judge(*containers.nofile(facts.probes.of(node_name)))


def test_stack(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container's stack limit is what is expected, or what the profile asks for (bytes there, KiB here)."""
    judge(*containers.stack(facts.probes.of(node_name)))


def test_shm(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """/dev/shm has what is expected or asked for. Without either: 1 GiB, docker's 64 MiB being the usual cause of a
    crash."""
    judge(*containers.shm(facts.probes.of(node_name)))


def test_ipc(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """With ``ipc: host`` the container shares the node's IPC namespace (F35)."""
    judge(*containers.ipc(facts.probes.of(node_name)))


def test_ports(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No process listens on a port the engine will bind (F10, F11). The owner is named."""
    judge(*containers.ports(facts.probes.of(node_name)))


def test_model_path(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The folder exists on the node, and config.json in it can be read in the container where the engine will look."""
    judge(*containers.model_path(facts.probes.of(node_name)))


def test_driver(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The driver's version begins with ``expect.driver`` and is not older than ``expect.driver_min``."""
    judge(*gpus.driver(facts.probes.of(node_name)))


def test_cuda(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The CUDA version that nvidia-smi shows begins with ``expect.cuda``."""
    judge(*gpus.cuda(facts.probes.of(node_name)))


def test_driver_fits_image(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """CUDA 13 images need driver R580, CUDA 12 R525 (F43, F44), unless the compat package is switched on on purpose."""
    judge(*gpus.driver_fits_image(facts.probes.of(node_name)))


def test_gpu_count(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """nvidia-smi lists as many GPUs as expected."""
    judge(*gpus.gpu_count(facts.probes.of(node_name)))


def test_gpu_model(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Every GPU's product name contains ``expect.gpu_model`` and its PCI device id is among the accepted ones."""
    judge(*gpus.gpu_model(facts.probes.of(node_name)))


def test_gpu_memory(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The smallest GPU has at least ``expect.gpu_memory_min_mib``."""
    judge(*gpus.gpu_memory(facts.probes.of(node_name)))


def test_gpu_ecc(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No uncorrectable memory error since the driver was loaded, and ECC as expected."""
    judge(*gpus.gpu_ecc(facts.probes.of(node_name)))


def test_gpu_remap(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No row remap (or page retirement) is pending, and none failed."""
    judge(*gpus.gpu_remap(facts.probes.of(node_name)))


def test_gpu_throttle(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No GPU is slowed by heat, power brake or hardware slowdown. Idle and application clocks are no such reason."""
    judge(*gpus.gpu_throttle(facts.probes.of(node_name)))


def test_gpu_clocks(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Application clocks are the card's maximum, or ``expect.gpu_clock_mhz``; a lower setting caps every figure."""
    judge(*gpus.gpu_clocks(facts.probes.of(node_name)))


def test_gpu_persistence(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Persistence mode is as expected: without it every first use of a GPU costs seconds."""
    judge(*gpus.gpu_persistence(facts.probes.of(node_name)))


def test_gpu_power_limit(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The power limit is ``expect.gpu_power_limit_w``; without an expectation, a limit below the card's own default is a
    warning."""
    judge(*gpus.gpu_power_limit(facts.probes.of(node_name)))


def test_gpu_temperature(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The hottest GPU, and the difference between the hottest and the coldest, are within the expectations."""
    judge(*gpus.gpu_temperature(facts.probes.of(node_name)))


def test_gpu_idle(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No process is on the GPUs and their memory is free (F54, F55). The owner is named; nothing is ended."""
    judge(*gpus.gpu_idle(facts.probes.of(node_name)))


def test_gpu_mode(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """MIG is off and the compute mode lets several processes in (vLLM and SGLang use more than one per GPU)."""
    judge(*gpus.gpu_mode(facts.probes.of(node_name)))


def test_nvlink(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Every GPU has the expected number of active links; without an expectation any inactive link is a failure."""
    judge(*gpus.nvlink(facts.probes.of(node_name)))


def test_fabric_manager(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """On a machine with NVSwitches fabric manager is active, of the driver's version, and every GPU has joined the fabric
    (F33)."""
    judge(*gpus.fabric_manager(facts.probes.of(node_name)))


def test_gpu_pcie(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Every GPU has all of its PCIe lanes, and a link capable of the expected generation. An idle GPU lowers its speed:
    that is no fault."""
    judge(*gpus.gpu_pcie(facts.probes.of(node_name)))


def test_reachable(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The node answered the probes at all: everything else about it is unknown otherwise."""
    judge(*machine.reachable(facts.probes.of(node_name)))


def test_os(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The operating system's name begins with ``expect.os``."""
    judge(*machine.os_name(facts.probes.of(node_name)))


def test_kernel(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The kernel release begins with ``expect.kernel``."""
    judge(*machine.kernel(facts.probes.of(node_name)))


def test_uptime(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The node runs for at least ``expect.uptime_min_hours``."""
    judge(*machine.uptime(facts.probes.of(node_name)))


def test_numa_balancing(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """``kernel.numa_balancing`` is as expected: page migration stalls the engine's host threads."""
    judge(*machine.numa_balancing(facts.probes.of(node_name)))


def test_governor(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """Every core runs the expected cpufreq governor. A machine without cpufreq (firmware decides, virtual) is told so."""
    judge(*machine.governor(facts.probes.of(node_name)))


def test_hugepages(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The transparent huge page setting is one of the expected ones."""
    judge(*machine.hugepages(facts.probes.of(node_name)))


def test_swap(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No more swap is in use than expected: an engine that is swapped stalls every rank."""
    judge(*machine.swap(facts.probes.of(node_name)))


def test_timezone(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The node's UTC offset is the expected one (it decides how its logs are read)."""
    judge(*machine.timezone(facts.probes.of(node_name)))


def test_clock_to_us(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The node's clock is near ours; half the round trip is the error of that statement."""
    judge(*machine.clock_to_us(facts.probes.of(node_name)))


def test_run_disk(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The folder the containers write their logs to has room."""
    judge(*machine.run_disk(facts.probes.of(node_name)))


def test_kernel_log(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The log was read, and tells everything since boot; a ring buffer that has forgotten its beginning is a warning."""
    judge(*machine.kernel_log(facts.probes.of(node_name)))


def test_xid(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No Xid since boot whose meaning is that the hardware or driver must be reset or serviced; others are warnings."""
    judge(*machine.xid(facts.probes.of(node_name)))


def test_sxid(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No NVSwitch reported a fatal error since boot; non-fatal ones are a warning."""
    judge(*machine.sxid(facts.probes.of(node_name)))


def test_memory_errors(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The kernel reported no hardware error of CPU or memory since boot."""
    judge(*machine.memory_errors(facts.probes.of(node_name)))


def test_disk_errors(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The kernel reported no I/O or file system error since boot: weights are read from these disks."""
    judge(*machine.disk_errors(facts.probes.of(node_name)))


def test_engine_ip(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The configured address belongs to the control interface, and the engine's own rule gives it inside the container
    (F03, F06, F13)."""
    judge(*network.engine_ip(facts.probes.of(node_name)))


def test_reach(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """TCP from each other node to this node's engine address: on an ephemeral port, and on the ports the engine will
    use."""
    judge(*network.reach(facts.probes.of(node_name)))


def test_hostname(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The node's own name resolves, and not to a loopback address: Gloo and Ray fall back to loopback then."""
    judge(*network.hostname(facts.probes.of(node_name)))


def test_proxy(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The container has no proxy variable that would catch requests between the nodes. On the host alone it is a
    warning."""
    judge(*network.proxy(facts.probes.of(node_name)))


def test_firewall(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """No firewall service and no dropping rule; only told as a warning unless ``expect.firewall`` is false: the
    connections decide."""
    judge(*network.firewall(facts.probes.of(node_name)))


def test_control_interface(facts: GatheredFacts, node_name: str, judge: Judge) -> None:
    """The interface of the control network exists, is up, and has the expected MTU (NCCL's and Gloo's bootstrap use
    it)."""
    judge(*network.control_interface(facts.probes.of(node_name)))


def test_image_equal(facts: GatheredFacts, judge: Judge) -> None:
    """The image's id is equal on all nodes: a tag is not."""
    judge(*containers.image_equal(facts.probes))


def test_clock_skew(facts: GatheredFacts, judge: Judge) -> None:
    """Each node's clock against the first node's, with its own error: logs of both nodes are read side by side."""
    judge(*machine.clock_skew(facts.probes))


def test_distinct_machines(facts: GatheredFacts, judge: Judge) -> None:
    """No two entries of the inventory lead to the same machine (same boot id, or the same GPU)."""
    judge(*machine.distinct_machines(facts.probes))


def test_nodes_agree(facts: GatheredFacts, judge: Judge) -> None:
    """One verdict per differing fact (failing when it breaks or slows the engine, else a warning), and one about all the
    others."""
    judge(*compare.nodes_agree(facts.probes))
