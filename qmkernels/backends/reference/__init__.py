"""Ops in plain PyTorch; each file documents what every backend's functions for its op take and return.

Kernels sum over rows in double (csrc/math/target.h has the rule), this backend as torch does.
"""
