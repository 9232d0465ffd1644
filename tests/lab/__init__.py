"""The lab: stand-in nodes on one Linux machine, with everything real that a machine without GPU and RDMA can have.

Real: network namespaces with their own addresses, sshd, dockerd, containers, vLLM or SGLang on the CPU, tensor
parallelism across the nodes over Gloo, a tiny model that answers. Stood in: GPU, RDMA devices, the vendors' tools.
See docs/lab.md and ``python -m tests.lab --help``.
"""
