"""The soft-RoCE lab: two small QEMU machines whose RDMA devices are real to every program (``rdma_rxe``).

Real: kernel, sysfs, verbs, GID tables, counters, ``ib_write_bw``, sshd, dockerd with full rights. Stood in: GPU and the two
scripts of the OFED. Without KVM the machines are emulated: seconds to boot, megabytes per second on a rail.
See docs/lab.md and ``python -m tests.lab.vm --help``.
"""
