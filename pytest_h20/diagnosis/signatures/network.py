"""Ports, names and the rendezvous of the ranks, before NCCL moves any data."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause, hint

PORTS = (
    cause(
        "port_in_use",
        r"\[Errno 98\]|EADDRINUSE|Errno 48\]|[Aa]ddress already in use|port \d+ is (?:already in use"
        r"|not available|occupied)|Port \d+ .*(?:in use|not available)|port(?:_base)? at \d+ is not available"
        r"|port is already allocated"
        r"|failed to listen on any local network address",
        "a port the engine needs is taken by another process",
        "find its owner (ss -ltnp); SGLang: HTTP port and --dist-init-addr port must differ",
        "F11, F12; vllm#8204, #39015; recorded (0.32, 0.5.16)",
        stage="serving",
    ),
    cause(
        "ray_port_in_use",
        r"(?:raylet|gcs_server).*Address already in use|Failed to bind.*gcs"
        r"|ConnectionError: Ray is trying to start at .* but is already running",
        "the Ray head's port is taken",
        "choose another port, or end the other Ray cluster if it is yours",
        "F10; ray#14098",
        rank=8,
        stage="joining",
    ),
)

RENDEZVOUS = (
    cause(
        "address_not_local",
        r"\[Errno 99\]|[Cc]annot assign requested address",
        "an address to listen on, or to connect from, is not of this machine",
        "--host, VLLM_HOST_IP, --dist-init-addr: the node's own address (ip -br addr in the container; --network host)",
        "errno 99",
        rank=21,
        fatal=False,
        stage="dist-init",
    ),
    cause(
        "gloo_connect_failed",
        r"Gloo connectFullMesh failed|Unable to find (?:address|interface) for: "
        r"|gloo.*connect.*(?:timed out|refused)|Connect timeout \[.*gloo",
        "Gloo chose an interface on which the nodes do not reach each other",
        "GLOO_SOCKET_IFNAME = the control interface, inside the containers of all nodes",
        "F01; vllm#13121 (2×8 H100, R1), #5094",
        rank=20,
        stage="dist-init",
    ),
    hint(
        "hostname_resolves_to_loopback",
        r"Unable to resolve hostname to a \(local\) address",
        "the host name does not resolve to the node's address",
        "fix /etc/hosts in the container; set GLOO_SOCKET_IFNAME",
        "F02; vllm#7074",
    ),
    cause(
        "hostname_unresolvable",
        r"DistNetworkError: .*(?:no-such-host|Name or service not known)|gai error: -\d+"
        r"|Temporary failure in name resolution|Name or service not known|nodename nor servname"
        r"|getaddrinfo failed",
        "the head's host name cannot be resolved",
        "use its IPv4 address",
        "recorded (0.5.16)",
        rank=20,
        fatal=False,
        stage="dist-init",
    ),
    cause(
        "master_unreachable",
        r"DistNetworkError: The client socket has (?:timed out|failed to connect)"
        r"|RuntimeError: The client socket has (?:timed out|failed)"
        r"|Did not receive response from front-end process"
        r"|Error: Connection refused.*TCPStore"
        r"|TCPStore.*: The client socket has timed out after \d+ms.*timed out \(try",
        "this node could not reach the rendezvous address of rank 0",
        "VLLM_HOST_IP / --dist-init-addr must be the head's routable address; open its ports; start rank 0 first",
        "F13, F05; vllm#19670, sgl#2658; recorded (0.5.16)",
        rank=40,
        stage="dist-init",
        weak=r"The client socket has timed out after \d+m?s while trying to connect",
    ),
    cause(
        "peer_never_joined",
        r"Timed out after \d+ seconds waiting for clients|waitForInput.{0,200}timed out after \d+ms"
        r"|DistStoreError: wait timeout after \d+ms"
        r"|Timed out initializing process group in store based barrier"
        r"|retrieving ncclUniqueId from \[\d+\].*(?:[Tt]imed? ?out)",
        "another node's ranks never came to the rendezvous",
        "see why the peer did not start; both need the same --dist-init-addr; probe high TCP ports both ways",
        "F14; vllm#16334; recorded (0.5.16)",
        rank=40,
        stage="dist-init",
    ),
    cause(
        "mnnvl_custom_all_reduce_hang",
        r"Timed out waiting \d+ms for recv operation|Application timeout caused pair closure",
        "vLLM 0.27–0.28 lets a cross-node group try MNNVL custom all-reduce, whose rendezvous blocks before Blackwell",
        "--disable-custom-all-reduce, or vLLM 0.29 and later",
        "F16; vllm#52907",
        rank=35,
        stage="dist-init",
        engine="vllm",
        context=r"in_the_same_node_as|mnnvl|custom_all_reduce",
        band=("0.27.0", "0.29.0"),
    ),
    cause(
        "gloo_recv_timeout",
        r"Timed out waiting \d+ms for (?:recv|send) operation|Application timeout caused pair closure",
        "a rank waited for another one until Gloo gave up",
        "find the rank that is behind: compare the last stage of both logs",
        "F17; vllm#43420",
        rank=40,
    ),
    cause(
        "peer_failed_to_load",
        r"could finish the model loading, but there are other ranks that didn't finish loading"
        r"|failed to pass monitoredBarrier|reached monitoredBarrier, but received errors",
        "another rank did not finish loading; this one only reports it",
        "read the other nodes' logs: the first exception there is the cause",
        "recorded (0.5.16, two nodes)",
        rank=40,
        stage="loading",
    ),
    cause(
        "peer_node_gone",
        r"(?:Read|Write) error \[.*\]:\d+: Connection reset by peer|Connection closed by peer \["
        r"|gloo.*Connection reset by peer|Broken pipe.*gloo|recvBytes failed"
        r"|failed to recv, got 0 bytes|Connection was likely closed"
        r"|ncclRemoteError|NCCL error(?: in)?: (?:\S+, )?remote process exited or there was a network error"
        r"|store->get\('\d+'\) got error: (?:Connection reset|recvValue|failed to recv)",
        "another node's process ended; this one lost its connection",
        "read the other nodes' logs",
        "recorded (0.5.16, two nodes); corpus",
        rank=42,
    ),
    hint(
        "nccl_peer_closed",
        r"NCCL WARN .*Connection closed by remote peer|NCCL WARN .*Connection reset by peer",
        "NCCL lost a connection: the peer ended",
        "read the other nodes' logs",
        "recorded (2.28.9)",
    ),
    cause(
        "message_queue_unreachable",
        r"Custom allreduce is disabled because this process group spans across nodes",
        "the nodes exchange addresses and one is unreachable (IPv6, or the wrong interface)",
        "SGLANG_HOST_IP / VLLM_HOST_IP per node",
        "F03; sgl#4978",
        rank=45,
        fatal=False,
        stage="dist-init",
        context=r"(?:zmq|ZMQ)\S*(?:Error|error)|Connection timed out",
    ),
)
