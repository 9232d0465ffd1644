"""Ray: joining, placement, and its actors."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

RAY = (
    cause(
        "ray_placement_group_timeout",
        r"Cannot provide a placement group",
        "Ray never had the GPUs (or the node address) that were asked for",
        "ray status: 16 GPUs, and VLLM_HOST_IP equal to the Ray node's IP (ray start --node-ip-address)",
        "F06; vllm#13388, #7815",
        stage="placement",
        engine="vllm",
    ),
    cause(
        "ray_node_ip_mismatch",
        r"No available node types can fulfill resource request .*node:",
        "VLLM_HOST_IP names an address that no Ray node has",
        "ray start --node-ip-address = VLLM_HOST_IP on that node",
        "F06; vllm#7815",
        rank=9,
        fatal=False,
        stage="placement",
    ),
    cause(
        "ray_duplicate_node_ip",
        r"Every node should have a unique IP address",
        "two nodes got the same VLLM_HOST_IP",
        "set it per node",
        "F07",
        stage="placement",
    ),
    cause(
        "ray_driver_has_no_gpu",
        r"Ray does not allocate any GPUs on the driver node"
        r"|driver node id .* not included in a placement group|Current node has no GPU available",
        "the head's container offers no GPU to Ray",
        "start the head container with --gpus all; run the API server on a node with GPUs",
        "F08; vllm#2406, #8908",
        stage="placement",
    ),
    cause(
        "ray_not_enough_gpus",
        r"number of required \w+s exceeds the total number of available \w+s in the (?:placement group|cluster)",
        "the Ray cluster has fewer GPUs than the parallel sizes ask for",
        "ray status: all nodes must have joined, each with its GPUs",
        "F08; vLLM source (0.7–0.33)",
        stage="placement",
    ),
    cause(
        "ray_version_mismatch",
        r"Version mismatch: The cluster was started with",
        "the nodes run different Ray or Python versions",
        "use one image digest on all nodes",
        "F09; gpustack#1640",
        stage="joining",
    ),
    cause(
        "ray_cluster_not_found",
        r"Could not find any running Ray instance"
        r"|(?:[Ff]ailed|[Uu]nable|[Cc]ould not|[Cc]annot)(?: to)? connect to (?:the )?GCS(?! at address)"
        r"|Ray cluster at .* could not be (?:found|reached)"
        r"|node timed out during startup",
        "there is no Ray cluster at that address",
        "start the head first; its port must be free and reachable",
        "F10; ray#14098",
        stage="joining",
        weak=r"Failed to connect to GCS at address",  # Ray's core tries again
    ),
    cause(
        "ray_not_installed",
        r"Failed to import Ray|Using Ray backend requires installation of ray|No module named 'ray'" r"|Ray is not installed",
        "the image holds no Ray (vLLM 0.18 and later)",
        "use --nnodes/--node-rank/--master-addr, or add Ray to the image",
        "F21",
        stage="joining",
    ),
    cause(
        "ray_worker_not_registered",
        r"Failed to register worker to Raylet|Unable to register worker with raylet"
        r"|raylet (?:process )?(?:died|exited)|Raylet is terminated|\braylet \[exit code=[1-9]",
        "a worker could not talk to its node's raylet",
        "see the raylet's log on that node; versions, /tmp/ray, memory",
        "vllm#13557",
        rank=41,
        stage="joining",
    ),
    cause(
        "ray_actor_died",
        r"RayActorError|ActorDiedError|The actor died (?:unexpectedly|because)|WorkerCrashedError"
        r"|The actor is dead because its worker process has died"
        r"|A worker died or was killed while executing a task by an unexpected system error"
        r"|has been marked dead because|Owner's node has crashed|ActorUnavailableError|NodeDiedError",
        "a Ray worker process died",
        "read that worker's log on its node (ray logs), and dmesg for an OOM kill",
        "F23; ray#59778",
        rank=42,
    ),
)
