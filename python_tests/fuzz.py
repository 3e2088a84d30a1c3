"""Random cases of every public op, head and loss, forward and gradients, against the reference backend.

    python python_tests/fuzz.py --cases 100000 --seed 0 [--isa avx2]
    python python_tests/fuzz.py --threads 8 --seconds 60

The first prints its counts per op, and for a failure the command that repeats only that case. The second compares the
results of many threads at once with those of one. Under AddressSanitizer (.ci/sanitize) it also shows that no memory is
read or written out of bounds. fuzz_draws.py draws numbers and sizes, fuzz_ops.py and fuzz_losses.py make the cases of
each op, head and loss, fuzz_cases.py has their table, and fuzz_comparison.py compares results.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import sys
import threading
import time
import traceback

import torch
from fuzz_cases import describe, make_case
from fuzz_comparison import assert_same_bits, compare, run
from fuzz_draws import Draw
from torch import Tensor

import qmkernels as qm


def run_case(seed: int, number: int, op: str | None = None) -> str:
    """Runs a case, of the op that its number chooses or of another, and returns the op's name; an AssertionError, or
    the op's own error, names the case."""
    op, draw, case = make_case(seed, number, op)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw.threads)
    try:
        upstreams: list[Tensor] = []
        with qm.use_backend("cpu"):
            actual = run(case, upstreams, draw)
            assert_same_bits(op, actual, run(case, upstreams, None), "again")  # this time its launches are repeated
        with qm.use_backend("reference"):
            expected = run(case, upstreams, None)
        compare(op, case, draw, actual, expected, upstreams)
    except Exception as error:
        isa = qm.backends.native.core.isa_in_use()
        raise AssertionError(
            f"{error if isinstance(error, AssertionError) else repr(error)}\n{describe(op, draw, case)}\n"
            f"repeat: python python_tests/fuzz.py --seed {seed} --case {number} --isa {isa}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return op


def run_threads(num_threads: int, seconds: float, seed: int, num_cases: int = 200) -> int:
    """Runs cases from many threads until the time is up, comparing every bit with one thread's; returns the count."""
    ops, _, cases = zip(*(make_case(seed, number) for number in range(num_cases)), strict=True)
    upstreams: list[list[Tensor]] = [[] for _ in cases]
    alone = [run(case, grads, Draw(seed, i)) for i, (case, grads) in enumerate(zip(cases, upstreams, strict=True))]
    end, counts, failures = time.monotonic() + seconds, collections.Counter(), []

    def work(thread: int) -> None:
        chance = random.Random(thread)
        try:
            while time.monotonic() < end and not failures:
                i = chance.randrange(len(cases))
                again = run(cases[i], upstreams[i], None)
                assert_same_bits(ops[i], alone[i], again, f"case {i} in a thread")
                counts[thread] += 1
        except Exception:
            failures.append(traceback.format_exc())

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(num_threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures[0]
    return counts.total()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only the case with this number")
    parser.add_argument("--isa", help="baseline, avx2 or avx512; default: the best of this processor")
    parser.add_argument("--seconds", type=float, help="stop after this long")
    parser.add_argument("--threads", type=int, help="run from so many threads at once, for --seconds")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, with the next case")
    options = parser.parse_args()
    if options.isa:
        os.environ["QMKERNELS_ISA"] = options.isa  # read at the first call of a kernel
    print(f"fuzz: {qm.backends.native.core.isa_in_use()}, seed {options.seed}", flush=True)
    if options.threads:
        count = run_threads(options.threads, options.seconds or 10, options.seed)
        print(f"{count} cases in {options.threads} threads agree")
        return 0
    numbers = [options.case] if options.case is not None else range(options.first, options.first + options.cases)
    counts: collections.Counter[str] = collections.Counter()
    failures, begin = 0, time.monotonic()
    for number in numbers:
        if options.seconds and time.monotonic() - begin > options.seconds:
            break
        try:
            counts[run_case(options.seed, number)] += 1
        except AssertionError as failure:
            failures += 1
            print(f"FAILED: {failure}", flush=True)
            if not options.keep_going:
                break
    print(" ".join(f"{op} {count}" for op, count in counts.items()))
    print(f"{counts.total()} cases agree, {failures} failed, {time.monotonic() - begin:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
