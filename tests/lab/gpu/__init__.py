"""The lab's GPU back end: one machine with two or more NVIDIA GPUs as two nodes. docs/lab.md"""
