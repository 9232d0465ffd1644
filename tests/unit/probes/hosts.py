"""What ``discover`` finds on the hosts of the stand-in cluster."""

from __future__ import annotations

from pytest_h20.probes import gpu, host, net, rdma
from pytest_h20.probes.discover import Found, ModelFound
from pytest_h20.probes.script import build, split
from pytest_h20.rehearsal import standin
from tests.unit.probes.cluster import Cluster

PROBES = (host.SYSTEM, net.NETWORK, rdma.RDMA, gpu.GPUS, gpu.NVLINKS)


def found(cluster: Cluster) -> list[Found]:
    hosts = []
    for node in cluster.nodes.values():
        sections = split(standin.answer(node.machine, build(PROBES)))
        facts = [p.read(sections) for p in PROBES]
        models = (
            ModelFound("/ssd1/models/DeepSeek-R1", "deepseek_v3", 163, 129280),
            ModelFound("/ssd1/models/R1-Distill", "qwen2", 8, 152064),
        )
        images = ("lmsysorg/sglang:ea52b45be1a7", "busybox:latest")
        hosts.append(Found(node.machine.address, *facts, models=models, images=images))  # type: ignore[arg-type,misc]
    return hosts
