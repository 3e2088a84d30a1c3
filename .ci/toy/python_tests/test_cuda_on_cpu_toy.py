"""The toy op's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

import pytest
from backend_comparison import DTYPES, assert_alike, points
from cuda_on_cpu import kernels, needs_compiler

from qmkernels.backends.native import toy as native
from qmkernels.backends.reference import toy as reference

pytestmark = needs_compiler
toy_kernels = kernels("toy")


# More rows than a grid has threads.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, size", [(1, 1), (7, 33), (1001, 5)])
def test_results_and_gradients_agree_with_the_reference(rows, size, dtype):
    x, y = points(rows, size=size, dtype=dtype)
    out = reference.toy_forward(x, y, 0.5)
    assert_alike((native.toy_forward(x, y, 0.5),), (out,))
    assert_alike(native.toy_backward(out, x, y, 0.5), reference.toy_backward(out, x, y, 0.5))
