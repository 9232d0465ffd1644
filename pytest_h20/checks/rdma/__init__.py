"""Checks that prove RDMA: NCCL's own log and the traffic of the rails."""
