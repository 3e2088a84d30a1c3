"""Counts the instructions of the hot CUDA kernels, read from their sm_90 machine code: nothing is run or timed.

    python benchmarks/gpu_budget.py [--check] [--nvdisasm FILE] [--cubins FOLDER]

Needs nvcc, and nvdisasm of the CUDA toolkit or of Triton's wheel, where it is in triton/backends/nvidia/bin. Writes
benchmarks/results/gpu_budget.csv, of which benchmarks/tables.py makes a table. sass.py says how the work of a kernel is
found in its code, and which opcode counts to which pipe. Counts are of float, D = 512, 1,024 x 1,024 rows.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import sass

HERE = Path(__file__).resolve().parent
CUDA = HERE.parent / "csrc" / "cuda"
NVCC = ["nvcc", "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-arch=sm_90", "-cubin", "-Xptxas=-v"]

# Of an H200: bytes that its memory moves per issue slot (4.8 TB/s, 132 multiprocessors of 4 schedulers, 1.98 GHz).
# Limits of compute capability 9.0: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
BYTES_PER_SLOT = 4.8e12 / (132 * 4 * 1.98e9)
REGISTERS, SHARED_BYTES, WARPS, BLOCKS = 65536, 228 * 1024, 64, 32
SHARED_BYTES_OF_A_BLOCK = 1024  # that the system takes
COLUMNS = (
    "date", "commit", "nvcc", "kernel", "source", "instructions", *sass.PER_CLOCK, "wavefronts", "floor", "floor_of",
    "busiest", "busiest_slots", "share_of_floor", "registers", "barriers", "shared_bytes", "warps",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """A kernel and the work of one step of its loop, in opcodes per thread.

    Different warps of a block may do different work in a step: `steps` are equally many of each. `tile` is the further
    work of a whole tile, which has `steps_in_tile`. `more_wavefronts` are those of a step's accesses to shared memory
    beyond one each: 16 bytes for each of 32 threads take four. `floor` is the least number of instructions of an
    element, a coordinate of a pair of rows (of the losses: a pair); 0: the bytes are the floor.

    A step with too many ways through for one search names the `trips` of its loops (sass.with_trips), and goes `by way
    of` the block with the most of another opcode: `steps` lead there, and this work back.
    """

    name: str
    source: str
    parts: tuple[str, ...]  # of the mangled name
    anchor: str  # the step is a cycle through the block with the most of this opcode
    elements: int  # of a thread in a step
    steps: list[dict[str, int]]
    floor: float
    floor_of: str
    tile: dict[str, int] = field(default_factory=dict)
    steps_in_tile: int = 1
    more_wavefronts: int = 0
    bytes: float = 0
    threads: int = 256
    dynamic_shared_bytes: int = 0
    trips: dict[str, int] = field(default_factory=dict)
    by_way_of: tuple[str, dict[str, int]] | None = None


def iqe_pairwise_forward(size: int) -> Kernel:
    """csrc/cuda/iqe_pairwise_forward.cu: a step is a chunk of components, a thread has 2 rows x 8 columns, or x 4."""
    chunk, packs = max(size, 32), 2 if size <= 32 else 1  # coordinates; 16 bytes of columns that shared memory holds
    copies = packs * chunk // 8 + chunk // 32  # of lines, and of 16 rows' begins, of which two are copied at a time
    pairs = 8 * packs
    return Kernel(
        f"IQE pairwise forward, K={size}",
        "iqe_pairwise_forward",
        (f"iqe_pairwise_forward_kernelIfLi{packs}ELb1ELi8E", "WantedE2"),
        "FSETP",  # at the end of a component
        pairs * chunk,
        # The first interval of a component needs one maximum.
        [{"FMNMX": pairs * (2 * chunk - chunk // size), "LDGSTS": copies, "BAR": 1, "STG": 0}],
        4,
        "2 FMNMX, 2 FADD",
        tile={"STG": 2 * pairs, "BAR": 2},  # the distance and the longest component
        steps_in_tile=512 // chunk,
        more_wavefronts=3 * 2 * packs * chunk + 4 * copies,  # ends, read and copied
        dynamic_shared_bytes=2 * chunk * (512 * packs + 16 * 8),
    )


def iqe_pairwise_backward(size: int) -> Kernel:
    """csrc/cuda/iqe_pairwise_backward.cu, one side: a step is a tile of 128 columns; a thread has 1 row x 4 columns."""
    chunk = max(size, 32)  # coordinates, whose lines 32 threads each copy
    return Kernel(
        f"IQE pairwise backward of a side, K={size}",
        "iqe_pairwise_backward",
        (f"iqe_pairwise_backward_kernelIfLi{size}E", "GivenE1"),
        "FMNMX",
        4 * chunk,
        # The first and the last interval of a component need no maximum. Loads: gradients and longest components.
        [{"FMNMX": 4 * (chunk - 2 * chunk // size), "LDGSTS": chunk // 8, "BAR": 1, "LDG": 8, "STG": 0, "SHFL": 0}],
        4,
        "2 FSETP, FMNMX, FADD",
        tile={"SHFL": 31 * chunk // 32, "STG": chunk // 32, "LDGSTS": chunk // 8 + 1},
        steps_in_tile=1024 // 128,
        more_wavefronts=3 * chunk + 4 * chunk // 8,  # ends, read and copied
        dynamic_shared_bytes=chunk * (2 * 512 + 8 * 8),
    )


# The dtypes in which kernels for matching rows load and store, as parts of their mangled names: bytes of a number.
STORED = {"float": ("f", 4), "bfloat16": ("8Bfloat16E", 2)}


def iqe_forward(size: int, stored: str = "float") -> Kernel:
    """csrc/cuda/iqe.cu with iqe_rows.cuh: a step is a chunk of 128 components, one per thread."""
    type_name, bytes_of_one = STORED[stored]
    packs = 2 * size * bytes_of_one // 16  # of x and y
    loads = packs + (size if size >= 16 else 0)  # and of y, which waits in shared memory while x is sorted
    step = {"LDG.E.128": packs, "STS.128": packs, "BAR": 6}
    # A row's lengths go through shared memory to `width` threads, which merge sum, maximum and its index. With K = 8 a
    # chunk has two rows for four warps.
    num_components = 512 // size
    width = min(num_components, 32)
    step["SHFL"] = 3 * int(math.log2(width))
    results = {**step, "LDS": loads + num_components // width, "STG": 1 + 3}  # ends; distance, longest, spread
    no_row = {**step, "LDS": loads, "STG": 1}
    return Kernel(
        f"IQE forward, K={size}{'' if stored == 'float' else f', {stored}'}",
        "iqe",
        ("iqe_forward_kernelIf", f"{type_name}Li{size}ELb1E"),
        "FMNMX",
        size,
        [results, no_row] if size == 8 else [results],
        0,
        "bytes",
        more_wavefronts=3 * 2 * packs,
        bytes=2 * bytes_of_one + 0.25,  # x and y, and two bits of ends
        threads=128,
    )


def qrl_critic_forward(size: int, stored: str = "float") -> Kernel:
    """csrc/cuda/qrl_critic.cu: a step is a chunk of 128 components, one per thread, of x, y and the goal."""
    type_name, bytes_of_one = STORED[stored]
    packs = 3 * size * bytes_of_one // 16
    num_components = 512 // size
    width = min(num_components, 32)
    step = {"LDG.E.128": packs, "STS": packs + 2, "BAR": 8, "SHFL": 2 * 3 * int(math.log2(width))}  # STS: and lengths
    step["STG"] = 2 + 2 * 3  # ends of both pairs; a row's slope, term and distance, in both
    if size >= 16:  # x is sorted alone; the goal waits in shared memory, and then y
        step |= {"BAR": 9, "STS": packs + 2 + 2 * size}
    return Kernel(
        f"QRL critic forward, K={size}{'' if stored == 'float' else f', {stored}'}",
        "qrl_critic",
        ("qrl_critic_forward_kernelIf", f"{type_name}Li{size}E"),
        "FMNMX",
        size,
        [step],
        0,
        "bytes",
        more_wavefronts=3 * 2 * packs,
        bytes=3 * bytes_of_one + 0.5,  # x, y and the goal, and two bits of ends of both pairs
        threads=128,
    )


def iqe_backward(stored: str = "float") -> Kernel:
    """csrc/cuda/iqe.cu: a step is 16 bytes of each gradient."""
    type_name, bytes_of_one = STORED[stored]
    return Kernel(
        f"IQE backward{'' if stored == 'float' else f', {stored}'}",
        "iqe",
        ("iqe_backward_kernelIf", f"{type_name}Li{16 // bytes_of_one}E"),
        "STG.E.128",
        16 // bytes_of_one,
        [{"STG.E.128": 2, "LDG": 4}],  # two bytes of ends, the upstream gradient and the longest component
        0,
        "bytes",
        bytes=2 * bytes_of_one + 0.25,
    )


# csrc/cuda/pairs_forward.cuh: a step is a component of 64 values, in two slices; a thread has 4 x 4 pairs. A slice
# stages 32 + 64 rows of 8 packs with 128 threads, and each of its packs loads 4 rows of each side.
MRN_PAIRWISE_FORWARD = Kernel(
    "MRN pairwise forward, components of 64",
    "mrn_pairwise",
    ("forward_pairs_kernelIfNS", "MrnHeadIf"),
    "FMNMX",
    16 * 64,
    [{"FMNMX": 16 * 32, "LDS.128": 128, "LDGSTS": 12, "BAR": 2, "MUFU.SQRT": 16, "STG": 0}],
    2,
    "FADD; FMNMX or FFMA",
    more_wavefronts=64 + 4 * 12,  # loads of y, 16 bytes of 16 rows, and copies
    threads=128,
)
# csrc/cuda/pairs_backward.cuh, one side: a step is a tile of 64 other rows against 32 rows and a component of 64
# values, all in one slice, of which 8 packs of each half. From the sums to the slopes, of which MUFU.RSQ is a part:
# 16 packs that load 8 times, two loads a pair that find its place. From there on: gradients of 64 rows, 16 additions of
# placed derivatives, each a F2I; then the next tile's gradients, and 8 packs of its rows. What a block does only with
# its first and last tile is not counted.
MRN_PAIRWISE_BACKWARD = Kernel(
    "MRN pairwise backward of a side, components of 64",
    "mrn_pairwise",
    ("backward_pairs_kernelIfNS", "MrnHeadIf"),
    "FMNMX",
    16 * 64,
    # MUFU.RCP: divisions, of values that are no whole packs. FSETP: a pack of a pair, and 3 of the 4 in a found one.
    [{"FMNMX": 512, "FFMA": 512, "FSETP": 128 + 3 * 16, "LDS.128": 128 + 32, "STG": 0, "MUFU.RCP": 0}],
    3,
    "FADD, FMNMX; 2 FADD, 2 FFMA",
    # Loads of y, packs and slopes that are stored, loads that find a place (8 wavefronts each), gradients of pairs.
    more_wavefronts=64 + 3 * (8 + 12) + 7 * 32 + 3 * (16 + 4),
    threads=128,
    dynamic_shared_bytes=(32 + 64) * 17 * 16 + (3 * 64 * 36 + 4 * 32 * 32) * 4,
    trips={"FMNMX": 8, "FFMA": 8, "LDG": 4},
    by_way_of=(
        "MUFU.RSQ",
        {"F2I": 16, "FFMA": 512 + 17, "FSETP": 64, "LDG.E.128": 8, "FMNMX": 0, "STG": 0, "MUFU.RSQ": 16, "MUFU.RCP": 0},
    ),
)
# csrc/cuda/nearest.cu, k <= 32: a step is 128 distances of a row, four of a thread, none of which comes before the last
# of the k places: in a bank of M rows in random order some k log(M / k) of them do.
NEAREST = Kernel(
    "nearest, up to 32 of a row",
    "nearest",
    ("nearest_merge_kernelIfLb0E",),
    "LDG.E",
    4,
    [{"LDG.E": 4, "VOTE": 4, "SHFL": 0}],
    0,
    "bytes",
    bytes=4,
)
# csrc/cuda/pair_loss.cu, InfoNCE over rows and columns: a step is a tile, of which a thread has 4 x 4 pairs. Each row
# takes a maximum and a sum over the warp, eight sums that are not 0 go over it, and the first warp adds eleven over the
# block. Exponentials: of rows, of columns, and in half of the warps of the columns' 8 parts.
PAIR_LOSS_FORWARD = Kernel(
    "pair_loss forward, symmetric InfoNCE",
    "pair_loss",
    ("pair_loss_forward_kernelIf", "PairKindE3"),
    "MUFU.EX2",
    16,
    [
        {"LDG": 16, "SHFL": (4 * 2 + 8 + 11 * (warp == 0)) * 5, "MUFU.EX2": 16 + 16 + 8 * (warp < 4)}
        for warp in range(8)
    ],
    0,
    "bytes",
    bytes=4,
)
# A step is a row of the tile, of which a thread has 4 pairs; the exponentials are theirs and the row's slope.
PAIR_LOSS_BACKWARD = Kernel(
    "pair_loss backward, symmetric InfoNCE",
    "pair_loss",
    ("pair_loss_backward_kernelIf", "PairKindE3"),
    "STG",
    4,
    [{"LDG": 4 + 2, "STG": 4, "MUFU.EX2": 4 * 2 + 1}],
    0,
    "bytes",
    bytes=8,
)
KERNELS = [
    *(iqe_pairwise_forward(size) for size in (8, 16, 32, 64)),
    *(iqe_pairwise_backward(size) for size in (8, 16, 32, 64)),
    *(iqe_forward(size, stored) for stored in STORED for size in (8, 16, 32, 64)),
    *(iqe_backward(stored) for stored in STORED),
    *(qrl_critic_forward(size, stored) for stored in STORED for size in (8, 16, 32)),
    MRN_PAIRWISE_FORWARD,
    MRN_PAIRWISE_BACKWARD,
    NEAREST,
    PAIR_LOSS_FORWARD,
    PAIR_LOSS_BACKWARD,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvdisasm", default=None, help="by default that on PATH, or Triton's")
    parser.add_argument("--cubins", type=Path, default=None, help="keep what is compiled here, and use what is there")
    parser.add_argument("--only", default="", help="kernels whose name holds this text; prints, and stores nothing")
    parser.add_argument("--check", action="store_true", help="prints, and stores nothing")
    options = parser.parse_args()
    nvdisasm = options.nvdisasm or shutil.which("nvdisasm") or tritons_nvdisasm()
    version = re.search(r"V([\d.]+)", output(["nvcc", "--version"]))[1]
    kernels = [kernel for kernel in KERNELS if options.only in kernel.name]
    with tempfile.TemporaryDirectory() as folder:
        folder = options.cubins or Path(folder)
        built = {source: build(source, folder, nvdisasm) for source in dict.fromkeys(k.source for k in kernels)}
    rows = []
    for kernel in kernels:
        rows.append(
            {"nvcc": version, "source": f"csrc/cuda/{kernel.source}.cu", **budget(kernel, *built[kernel.source])}
        )
        print({name: value for name, value in rows[-1].items() if name not in ("nvcc", "source")}, flush=True)
    if options.only or options.check:
        return
    root = ["git", "-C", str(HERE)]
    where = {"date": datetime.date.today().isoformat(), "commit": output([*root, "rev-parse", "--short", "HEAD"])}
    with (HERE / "results" / "gpu_budget.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**where, **row} for row in rows)


def tritons_nvdisasm() -> str:
    triton = importlib.util.find_spec("triton")
    if triton is None:
        raise SystemExit("gpu_budget: nvdisasm was not found: name it by --nvdisasm, or install triton.")
    return str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm")


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def build(source: str, folder: Path, nvdisasm: str) -> tuple[dict[str, str], str]:
    """The listings of a source's kernels, and what ptxas reports of them."""
    cubin, report = folder / f"{source}.cubin", folder / f"{source}.txt"
    if not (cubin.exists() and report.exists()):
        command = [*NVCC, str(CUDA / f"{source}.cu"), "-o", str(cubin)]
        report.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stderr)
    return sass.functions(output([nvdisasm, "-c", str(cubin)])), report.read_text()


def budget(kernel: Kernel, listings: dict[str, str], report: str) -> dict[str, str]:
    """A row of the table: slots and instructions are of one element."""
    names = [name for name in listings if all(part in name for part in kernel.parts)]
    if len(names) != 1:
        raise LookupError(f"{kernel.name}: {len(names)} kernels of {kernel.source}.cu are called {kernel.parts}")
    graph = sass.with_trips(sass.blocks(listings[names[0]]), kernel.trips)
    anchor = sass.busiest(graph, kernel.anchor)
    issued: Counter[str] = Counter()  # in as many steps as there are kinds of them
    way, way_back = kernel.by_way_of or (kernel.anchor, None)
    for step in kernel.steps:
        issued.update(sass.cheapest_walk(graph, anchor, sass.busiest(graph, way), step))
    if way_back is not None:
        issued.update(sass.cheapest_walk(graph, sass.busiest(graph, way), anchor, way_back))
    pipes = per_element(issued, kernel.elements * len(kernel.steps))
    if kernel.tile:  # what a way round the tile has beyond the shortest step
        more = sass.cheapest_walk(graph, anchor, anchor, kernel.tile)
        more.subtract(sass.cheapest_walk(graph, anchor, anchor, dict.fromkeys(kernel.tile, 0)))
        pipes.update(per_element(more, kernel.elements * kernel.steps_in_tile))
    slots = {pipe: 128 / rate * pipes[pipe] for pipe, rate in sass.PER_CLOCK.items()}
    wavefronts = pipes["shared"] + kernel.more_wavefronts / kernel.elements
    slots |= {"issue": sum(pipes.values()), "shared": 4 * wavefronts, "bytes": 32 * kernel.bytes / BYTES_PER_SLOT}
    del slots["other"]
    floor = kernel.floor or slots["bytes"]
    busiest = max(slots, key=slots.__getitem__)
    used = re.search(rf"'{re.escape(names[0])}'(?:.*\n)+?.*Used (\d+) registers.*?(?:(\d+) bytes smem)?$", report, re.M)
    registers, static = int(used[1]), int(used[2] or 0)
    shared = kernel.dynamic_shared_bytes + static
    numbers = {**{pipe: pipes[pipe] for pipe in sass.PER_CLOCK}, "wavefronts": wavefronts, "floor": floor}
    numbers |= {"instructions": slots["issue"], "busiest_slots": slots[busiest]}
    return {
        "kernel": kernel.name,
        **{name: f"{number:.2f}" for name, number in numbers.items()},
        "floor_of": kernel.floor_of,
        "busiest": busiest,
        "share_of_floor": f"{floor / slots['issue']:.2f}" if kernel.floor else f"{floor / slots[busiest]:.2f}",
        "registers": str(registers),
        "barriers": f"{sass.count(issued.elements(), 'BAR') / len(kernel.steps):g}",
        "shared_bytes": str(shared),
        "warps": str(resident_warps(kernel.threads, registers, shared)),
    }


def per_element(issued: Counter[str], elements: int) -> Counter[str]:
    pipes: Counter[str] = Counter()
    for opcode, count in issued.items():
        pipes[sass.pipe_of(opcode)] += count / elements
    return pipes


def resident_warps(threads: int, registers: int, shared_bytes: int) -> int:
    """Warps of a multiprocessor's 64 that its registers, shared memory and blocks leave room for."""
    warps = threads // 32
    of_registers = REGISTERS // (-(-registers // 8) * 8 * 32) // warps  # handed out to warps, 8 a thread at a time
    of_memory = SHARED_BYTES // (shared_bytes + SHARED_BYTES_OF_A_BLOCK)
    return warps * min(of_registers, of_memory, WARPS // warps, BLOCKS)


if __name__ == "__main__":
    main()
