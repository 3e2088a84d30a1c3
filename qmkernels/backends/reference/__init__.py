"""Ops in plain PyTorch; each file says what every backend's functions of its op take and return.

Sums over rows: kernels add up in double (csrc/math/target.h has the rule), this backend as torch does.
"""
