"""The ops: checks, broadcasting and derivatives of the kernels, for tensors."""

import torch as torch  # first: as soon as it is there, ops are registered (torch_ops.py), which imports this package
