"""IQE's effects on its process: threads, instruction sets, OpenMP runtimes, forks, memory."""

import re
import resource
import sys

import pytest
import torch
from processes import run_python

import qmkernels as qm


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(300, 320, generator=generator) for _ in range(2))
    grad = torch.linspace(-1, 1, 300)
    runs = []
    before = torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            leaves = [tensor.clone().requires_grad_() for tensor in (x, y)]
            out, matrix = (op(*leaves, 8, backend="cpu") for op in (qm.iqe, qm.iqe_pairwise))
            runs.append([out, matrix, *torch.autograd.grad((out * grad).sum() + (matrix * grad).sum(), leaves)])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_pairwise_training_memory_at_1024_by_1024_stays_under_64_mib_beyond_inputs_outputs_and_gradients():
    result = run_python(
        """
        import resource, torch, qmkernels as qm
        peak_kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        x, y = torch.randn(1024, 512, requires_grad=True), torch.randn(1024, 512, requires_grad=True)
        head = qm.nn.IQE(512, 8)
        head(x[:32, None], y[:32]).sum().backward()  # threads, library code and the gradients' memory are there now
        out, grads, largest = (torch.ones(1024, 1024) for _ in range(3))
        before = peak_kib()
        del out, grads, largest
        head(x[:, None], y).sum().backward()
        print((peak_kib() - before) / 1024)
        """
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 64


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_one_openmp_runtime_is_loaded():
    result = run_python(
        """
        import torch, qmkernels as qm
        qm.iqe_pairwise(torch.randn(512, 64), torch.randn(512, 64), 8)
        paths = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split("/")[-1]}
        print(*sorted(paths), sep="\\n")
        """
    )
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"lib(?:g|i)?omp", result.stdout)) == 1, result.stdout


def test_forked_dataloader_workers_run_the_kernels():
    result = run_python(
        """
        import torch, qmkernels as qm
        class Distances(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, i):
                return qm.iqe_pairwise(torch.randn(200, 64), torch.randn(200, 64), 8).sum()
        qm.iqe_pairwise(torch.randn(512, 64), torch.randn(512, 64), 8)  # the parent has used its threads
        print(len(list(torch.utils.data.DataLoader(Distances(), num_workers=2, multiprocessing_context="fork"))))
        """
    )
    assert result.returncode == 0 and result.stdout.strip() == "4", result.stderr


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_reference_numbers(isa):
    result = run_python(
        """
        import sys, torch, qmkernels as qm
        why = qm.backends.native.core.why_not("cpu")
        if why:
            sys.exit(why)
        assert qm.backends.native.core.isa_in_use() == sys.argv[1] if len(sys.argv) > 1 else True
        torch.manual_seed(0)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            for size in (1, 4, 5, 8, 16, 32, 33, 64):
                leaves = [torch.randn(37, 3 * size, dtype=dtype, requires_grad=True) for _ in range(2)]
                for op in (qm.iqe, qm.iqe_pairwise):
                    runs = []
                    for backend in ("cpu", "reference"):
                        out = op(*leaves, size, backend=backend)
                        runs.append((out, *torch.autograd.grad(out.sum(), leaves)))
                    for mine, reference in zip(*runs):
                        torch.testing.assert_close(mine, reference, atol=tolerance * 37, rtol=tolerance)
        print("done", qm.backends.native.core.isa_in_use())
        """,
        QMKERNELS_ISA=isa,
    )
    if "QMKERNELS_ISA must be one of" in result.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert result.stdout.split() == ["done", isa], result.stderr


def test_small_calls_use_vectors_of_256_bits_unless_told_otherwise():
    """Different widths sum over D in different orders, and so differ in the last bits."""
    code = """
        import torch, qmkernels as qm
        generator = torch.Generator().manual_seed(0)
        for rows in (3, 30):
            x, y = torch.randn(2, rows, 512, generator=generator)
            print(qm.mrn(x, y, 1).numpy().tobytes().hex())
        """
    automatic, *named = (run_python(code, QMKERNELS_ISA=isa) for isa in ("", "avx2", "avx512"))
    if any("QMKERNELS_ISA must be one of" in result.stderr for result in named):
        pytest.skip("this processor lacks one of the widths")
    (small, large), (small_256, large_256), (small_512, large_512) = (
        result.stdout.split() for result in (automatic, *named)
    )
    assert small == small_256 != small_512 and large == large_512 != large_256


def test_an_unknown_instruction_set_is_refused_with_the_names_there_are():
    code = "import qmkernels as qm, torch; qm.iqe(torch.zeros(2, 8), torch.zeros(2, 8), 8, backend='cpu')"
    result = run_python(code, QMKERNELS_ISA="mmx")
    assert result.returncode != 0 and "QMKERNELS_ISA must be one of baseline" in result.stderr


def test_an_unknown_backend_in_the_environment_is_refused_by_the_variables_name():
    result = run_python("import torch, qmkernels", QMKERNELS_BACKEND="gpu")
    assert result.returncode != 0 and "QMKERNELS_BACKEND must be 'auto' or one of cuda" in result.stderr


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY, reason="memory of this process is limited"
)
def test_more_than_two_to_the_31_elements():
    with open("/proc/meminfo") as file:
        available_gib = int(re.search(r"MemAvailable:\s+(\d+)", file.read())[1]) / 2**20
    if available_gib < 14:
        pytest.skip(f"needs 14 GiB of memory, has {available_gib:.0f}")
    rows = 2**31 // 512 + 3
    x = torch.zeros(rows, 512)
    x[-1], x[0] = 1.0, 2.0
    y = torch.ones(1, 512).expand(8, 512)
    distances = qm.iqe(x[:, None], y, 8, reduction="sum", backend="cpu")
    assert distances.shape == (rows, 8)
    assert distances[0].tolist() == [0.0] * 8 and distances[-1].tolist() == [0.0] * 8
    assert (distances[1:-1] == 64.0).all()
