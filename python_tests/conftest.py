"""Under pytest-xdist every worker takes its share of the cores: more threads than cores wait for one another."""

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
