"""Gate ``environment``: every machine is as it must be, and the machines are alike. Facts are gathered once; each test judges
one property."""

from __future__ import annotations

import pytest

from pytest_h20.checks.environment import alike, containers, gpus, machine, network
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.facts import GatheredFacts

pytestmark = pytest.mark.h20_gate("environment")


def test_docker(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The daemon answers, is not older than ``expect.docker_min``, and uses the expected storage driver."""
    h20_judge(*containers.docker(h20_facts.probes.of(node_name)))


def test_nvidia_runtime(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The NVIDIA runtime is registered with docker, or its toolkit is installed (``--gpus`` needs it)."""
    h20_judge(*containers.nvidia_runtime(h20_facts.probes.of(node_name)))


def test_docker_disk(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The file system docker keeps its data on has at least ``expect.docker_free_gib``."""
    h20_judge(*containers.docker_disk(h20_facts.probes.of(node_name)))


def test_image(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The profile's image is there (nothing is pulled), and is the expected one."""
    h20_judge(*containers.image(h20_facts.probes.of(node_name)))


def test_image_versions(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Engine, torch, NCCL and CUDA of the image begin with what is expected."""
    h20_judge(*containers.image_versions(h20_facts.probes.of(node_name)))


def test_gpus_in_container(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container sees as many GPUs as the node has."""
    h20_judge(*containers.gpus_in_container(h20_facts.probes.of(node_name)))


def test_rdma_in_container(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container has a uverbs device per HCA of the inventory, and libibverbs."""
    h20_judge(*containers.rdma_in_container(h20_facts.probes.of(node_name)))


def test_memlock(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container may lock any amount of memory: RDMA registers the whole buffer (F27)."""
    h20_judge(*containers.memlock(h20_facts.probes.of(node_name)))


def test_nofile(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container may open as many files as expected, or as the profile asks for."""
    h20_judge(*containers.nofile(h20_facts.probes.of(node_name)))


def test_stack(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container's stack limit is what is expected, or what the profile asks for (bytes there, KiB here)."""
    h20_judge(*containers.stack(h20_facts.probes.of(node_name)))


def test_shm(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """/dev/shm has what is expected or asked for. Without either: 1 GiB, docker's 64 MiB being the usual cause of a
    crash."""
    h20_judge(*containers.shm(h20_facts.probes.of(node_name)))


def test_ipc(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """With ``ipc: host`` the container shares the node's IPC namespace (F35)."""
    h20_judge(*containers.ipc(h20_facts.probes.of(node_name)))


def test_ports(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No process listens on a port the engine will bind (F10, F11). The owner is named."""
    h20_judge(*containers.ports(h20_facts.probes.of(node_name)))


def test_model_path(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The folder exists on the node, and config.json in it can be read in the container where the engine will look."""
    h20_judge(*containers.model_path(h20_facts.probes.of(node_name)))


def test_driver(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The driver's version begins with ``expect.driver`` and is not older than ``expect.driver_min``."""
    h20_judge(*gpus.driver(h20_facts.probes.of(node_name)))


def test_cuda(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The CUDA version that nvidia-smi shows begins with ``expect.cuda``."""
    h20_judge(*gpus.cuda(h20_facts.probes.of(node_name)))


def test_driver_fits_image(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """CUDA 13 images need driver R580, CUDA 12 R525 (F43, F44), unless the compat package is switched on on purpose."""
    h20_judge(*gpus.driver_fits_image(h20_facts.probes.of(node_name)))


def test_gpu_count(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """nvidia-smi lists as many GPUs as expected."""
    h20_judge(*gpus.gpu_count(h20_facts.probes.of(node_name)))


def test_gpu_model(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Every GPU's product name contains ``expect.gpu_model`` and its PCI device id is among the accepted ones."""
    h20_judge(*gpus.gpu_model(h20_facts.probes.of(node_name)))


def test_gpu_memory(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The smallest GPU has at least ``expect.gpu_memory_min_mib``."""
    h20_judge(*gpus.gpu_memory(h20_facts.probes.of(node_name)))


def test_gpu_ecc(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No uncorrectable memory error since the driver was loaded, and ECC as expected."""
    h20_judge(*gpus.gpu_ecc(h20_facts.probes.of(node_name)))


def test_gpu_remap(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No row remap (or page retirement) is pending, and none failed."""
    h20_judge(*gpus.gpu_remap(h20_facts.probes.of(node_name)))


def test_gpu_throttle(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No GPU is slowed by heat, power brake or hardware slowdown. Idle and application clocks are no such reason."""
    h20_judge(*gpus.gpu_throttle(h20_facts.probes.of(node_name)))


def test_gpu_clocks(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Application clocks are the card's maximum, or ``expect.gpu_clock_mhz``; a lower setting caps every figure."""
    h20_judge(*gpus.gpu_clocks(h20_facts.probes.of(node_name)))


def test_gpu_persistence(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Persistence mode is as expected: without it every first use of a GPU costs seconds."""
    h20_judge(*gpus.gpu_persistence(h20_facts.probes.of(node_name)))


def test_gpu_power_limit(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The power limit is ``expect.gpu_power_limit_w``; without an expectation, a limit below the card's own default is a
    warning."""
    h20_judge(*gpus.gpu_power_limit(h20_facts.probes.of(node_name)))


def test_gpu_temperature(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The hottest GPU, and the difference between the hottest and the coldest, are within the expectations."""
    h20_judge(*gpus.gpu_temperature(h20_facts.probes.of(node_name)))


def test_gpu_idle(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No process is on the GPUs and their memory is free (F54, F55). The owner is named; nothing is ended."""
    h20_judge(*gpus.gpu_idle(h20_facts.probes.of(node_name)))


def test_gpu_mode(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """MIG is off and the compute mode lets several processes in (vLLM and SGLang use more than one per GPU)."""
    h20_judge(*gpus.gpu_mode(h20_facts.probes.of(node_name)))


def test_nvlink(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Every GPU has the expected number of active links; without an expectation any inactive link is a failure."""
    h20_judge(*gpus.nvlink(h20_facts.probes.of(node_name)))


def test_fabric_manager(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """On a machine with NVSwitches fabric manager is active, of the driver's version, and every GPU has joined the fabric
    (F33)."""
    h20_judge(*gpus.fabric_manager(h20_facts.probes.of(node_name)))


def test_gpu_pcie(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Every GPU has all of its PCIe lanes, and a link capable of the expected generation. An idle GPU lowers its speed:
    that is no fault."""
    h20_judge(*gpus.gpu_pcie(h20_facts.probes.of(node_name)))


def test_reachable(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The node answered the probes at all: everything else about it is unknown otherwise."""
    h20_judge(*machine.reachable(h20_facts.probes.of(node_name)))


def test_os(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The operating system's name begins with ``expect.os``."""
    h20_judge(*machine.os_name(h20_facts.probes.of(node_name)))


def test_kernel(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The kernel release begins with ``expect.kernel``."""
    h20_judge(*machine.kernel(h20_facts.probes.of(node_name)))


def test_uptime(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The node runs for at least ``expect.uptime_min_hours``."""
    h20_judge(*machine.uptime(h20_facts.probes.of(node_name)))


def test_numa_balancing(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """``kernel.numa_balancing`` is as expected: page migration stalls the engine's host threads."""
    h20_judge(*machine.numa_balancing(h20_facts.probes.of(node_name)))


def test_governor(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """Every core runs the expected cpufreq governor. A machine without cpufreq (firmware decides, virtual) is told so."""
    h20_judge(*machine.governor(h20_facts.probes.of(node_name)))


def test_hugepages(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The transparent huge page setting is one of the expected ones."""
    h20_judge(*machine.hugepages(h20_facts.probes.of(node_name)))


def test_swap(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No more swap is in use than expected: an engine that is swapped stalls every rank."""
    h20_judge(*machine.swap(h20_facts.probes.of(node_name)))


def test_timezone(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The node's UTC offset is the expected one (it decides how its logs are read)."""
    h20_judge(*machine.timezone(h20_facts.probes.of(node_name)))


def test_clock_to_us(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The node's clock is near ours; half the round trip is the error of that statement."""
    h20_judge(*machine.clock_to_us(h20_facts.probes.of(node_name)))


def test_run_disk(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The folder the containers write their logs to has room."""
    h20_judge(*machine.run_disk(h20_facts.probes.of(node_name)))


def test_kernel_log(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The log was read, and tells everything since boot; a ring buffer that has forgotten its beginning is a warning."""
    h20_judge(*machine.kernel_log(h20_facts.probes.of(node_name)))


def test_xid(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No Xid since boot whose meaning is that the hardware or driver must be reset or serviced; others are warnings."""
    h20_judge(*machine.xid(h20_facts.probes.of(node_name)))


def test_sxid(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No NVSwitch reported a fatal error since boot; non-fatal ones are a warning."""
    h20_judge(*machine.sxid(h20_facts.probes.of(node_name)))


def test_memory_errors(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The kernel reported no hardware error of CPU or memory since boot."""
    h20_judge(*machine.memory_errors(h20_facts.probes.of(node_name)))


def test_disk_errors(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The kernel reported no I/O or file system error since boot: weights are read from these disks."""
    h20_judge(*machine.disk_errors(h20_facts.probes.of(node_name)))


def test_engine_ip(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The configured address belongs to the control interface, and the engine's own rule gives it inside the container
    (F03, F06, F13)."""
    h20_judge(*network.engine_ip(h20_facts.probes.of(node_name)))


def test_reach(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """TCP from each other node to this node's engine address: on an ephemeral port, and on the ports the engine will
    use."""
    h20_judge(*network.reach(h20_facts.probes.of(node_name)))


def test_hostname(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The node's own name resolves, and not to a loopback address: Gloo and Ray fall back to loopback then."""
    h20_judge(*network.hostname(h20_facts.probes.of(node_name)))


def test_proxy(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The container has no proxy variable that would catch requests between the nodes. On the host alone it is a
    warning."""
    h20_judge(*network.proxy(h20_facts.probes.of(node_name)))


def test_firewall(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """No firewall service and no dropping rule; only told as a warning unless ``expect.firewall`` is false: the
    connections decide."""
    h20_judge(*network.firewall(h20_facts.probes.of(node_name)))


def test_control_interface(h20_facts: GatheredFacts, node_name: str, h20_judge: Judge) -> None:
    """The interface of the control network exists, is up, and has the expected MTU (NCCL's and Gloo's bootstrap use
    it)."""
    h20_judge(*network.control_interface(h20_facts.probes.of(node_name)))


def test_image_equal(h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """The image's id is equal on all nodes: a tag is not."""
    h20_judge(*containers.image_equal(h20_facts.probes))


def test_clock_skew(h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """Each node's clock against the first node's, with its own error: logs of both nodes are read side by side."""
    h20_judge(*machine.clock_skew(h20_facts.probes))


def test_distinct_machines(h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """No two entries of the inventory lead to the same machine (same boot id, or the same GPU)."""
    h20_judge(*machine.distinct_machines(h20_facts.probes))


def test_nodes_agree(h20_facts: GatheredFacts, h20_judge: Judge) -> None:
    """One verdict per differing fact (failing when it breaks or slows the engine, else a warning), and one about all the
    others."""
    h20_judge(*alike.nodes_agree(h20_facts.probes))
