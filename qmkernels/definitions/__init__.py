"""What the ops compute, in plain PyTorch."""

import torch as torch  # first: as soon as it is there, ops are registered (torch_ops.py), which imports this package
