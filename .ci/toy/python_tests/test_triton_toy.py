"""The Triton functions of the toy op, on a GPU where there is one, else under the interpreter."""

import pytest
from backend_comparison import DTYPES, assert_alike
from triton_testing import import_kernels, interpreted, points

from qmkernels.backends.reference import toy as reference

kernels = import_kernels("toy")
pytestmark = interpreted


# The last is more than a block.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 33, 130])
def test_results_and_gradients_are_those_of_the_reference(size, dtype):
    x, y = points(5, size=size, dtype=dtype)
    out = reference.toy_forward(x, y, 0.5)
    assert_alike((kernels.toy_forward(x, y, 0.5),), (out,))
    assert_alike(kernels.toy_backward(out, x, y, 0.5), reference.toy_backward(out, x, y, 0.5))
