"""The memory of a kernel's tasks: they take at least what they write, and a refusal does not crash."""

import pytest
from processes import run_python


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_pairwise_gradients_of_more_rows_than_a_tile_stay_within_their_memory(isa):
    # Rows of three values end between boundaries of 64 bytes except with AVX-512, and from 48 rows on a tile of slopes
    # is full: its last array used to end beyond the block, and the process with "double free or corruption".
    result = run_python(
        """
        import torch, qmkernels as qm
        x, y = (torch.randn(rows, 3, requires_grad=True) for rows in (200, 190))
        for _ in range(3):
            qm.euclidean_pairwise(x, y, backend="cpu").sum().backward()
        print("done", qm.backends.native.core.isa_in_use())
        """,
        QMKERNELS_ISA=isa,
    )
    if "QMKERNELS_ISA must be one of" in result.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert result.stdout.split() == ["done", isa], (result.returncode, result.stderr)


def test_a_task_that_gets_no_memory_raises_a_memory_error():
    result = run_python(
        """
        import resource, torch, qmkernels as qm
        size = 1 << 22  # whose sort takes three vectors of lanes for each, 192 MiB of the narrowest
        x, y = torch.zeros(1, size), torch.zeros(1, size)
        qm.iqe(x[:, :4], y[:, :4], 4, backend="cpu")
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
        try:
            qm.iqe(x, y, size, backend="cpu")
        except MemoryError as error:
            print("refused")
        """
    )
    assert result.stdout.split() == ["refused"], (result.returncode, result.stderr)
