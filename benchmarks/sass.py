"""Reads a kernel's machine code (SASS, as ``nvdisasm -c`` prints it) and finds what it takes to do some work.

Which way a branch goes depends on data that no listing has. So what is counted is the cheapest walk: of all ways
through the code from a block to another, or back to it, the one with the fewest instructions that executes given
opcodes given numbers of times. The trip counts of the loops inside follow from that work, and which of the compiler's
unrolled copies and remainders run. Where no way does the work, that is an error, never a guess.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

# Results per clock of an sm_90 multiprocessor: CUDA C++ Programming Guide, "Throughput of Native Arithmetic
# Instructions", compute capability 9.0. Which opcodes share a pipe: Nsight Compute's Kernel Profiling Guide,
# "Pipelines"; it names groups of instructions, so that single opcodes are our reading of it. Its four schedulers issue
# one instruction for 32 threads a clock each: 128 a clock is one issue slot.
PER_CLOCK = {"fma": 128, "imad": 64, "alu": 64, "xu": 16, "fp64": 64, "shared": 32, "global": 32, "other": 128}
OPCODES = {
    "fma": "FADD FFMA FMUL HADD2 HFMA2 HMUL2",
    "imad": "IMAD",  # half of the FMA pipe
    "alu": "F2FP FMNMX FSEL FSET FSETP I2FP IABS IADD3 ISETP LEA LOP3 MOV P2R PLOP3 PRMT R2P SEL SHF VIADD VIADDMNMX "
    "VIMNMX VIMNMX3",
    "xu": "BREV F2F F2I FCHK FLO FRND I2F MUFU POPC",
    "fp64": "DADD DFMA DMUL DSETP",
    "shared": "LDS SHFL STS",
    "global": "LDG LDGSTS STG",
    "other": "BAR BRA BREAK BRX BRXU BSSY BSYNC CALL CS2R DEPBAR ENDCOLLECTIVE EXIT LDC LDGDEPBAR NOP R2UR RET S2R "
    "S2UR VOTE WARPSYNC",
}
PIPES = {opcode: pipe for pipe, names in OPCODES.items() for opcode in names.split()}

LINE = re.compile(
    r"^(?:(?P<label>[.$\w]+):|"
    r"\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+)?\s*(?P<opcode>[A-Z][\w.]*)(?P<operands>[^;]*);.*)$",
    re.MULTILINE,
)


@dataclass
class Block:
    """Opcodes, with their modifiers, that are issued one after another, and what follows: the labels of blocks."""

    opcodes: list[str] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)  # those of them that a predicate may turn into nothing
    next: list[str] = field(default_factory=list)
    calls: str | None = None  # the function called before `next`
    returns: bool = False


def functions(listing: str) -> dict[str, str]:
    """The listing of each kernel, with the functions that it calls, by its mangled name."""
    parts = re.split(r"^\.text\.(\S+):$", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def pipe_of(opcode: str) -> str:
    """Instructions of the uniform datapath, U..., are "other". KeyError: an opcode that the table lacks."""
    name = opcode.split(".")[0]
    return "other" if name.startswith("U") else PIPES[name]


def blocks(listing: str) -> dict[str, Block]:
    """Basic blocks of one kernel, by label, the first where it starts. ValueError: an opcode of no known pipe, or a
    branch without targets."""
    result: dict[str, Block] = {}
    block = None
    for number, line in enumerate(LINE.finditer(listing)):
        if line["label"] or block is None:
            label = line["label"] or f"line {number}"
            if block is not None:
                block.next.append(label)
            block = result[label] = Block()
            if line["label"]:
                continue
        opcode, operands = line["opcode"], line["operands"]
        name = opcode.split(".")[0]
        if not name.startswith("U") and name not in PIPES:
            raise ValueError(f"an opcode of no known pipe: {opcode}")
        block.opcodes.append(opcode)
        if line["guard"]:
            block.guarded.append(opcode)
        if name not in ("BRA", "BRX", "BRXU", "CALL", "EXIT", "RET"):
            continue
        may_fall_through = bool(line["guard"]) or opcode == "BRA.DIV" or re.match(r"\s*!?U?P\d", operands) is not None
        targets = re.findall(r"\.L_x_\d+|(?<=`\()[^)]+", operands)
        if name != "EXIT" and not targets:
            raise ValueError(f"a branch without targets: {line[0].strip()}")
        after = f"line {number + 1}"
        if name == "CALL":
            if line["guard"]:
                raise ValueError(f"a conditional call: {line[0].strip()}")
            block.calls, block.next = targets[0], [after]
        else:
            block.next = (targets if name.startswith("BR") else []) + ([after] if may_fall_through else [])
            block.returns = name == "RET"
        block = result[after] = Block()
    return result


def with_trips(graph: dict[str, Block], trips: dict[str, int]) -> dict[str, Block]:
    """The graph in which each loop of a single block that has an opcode runs as often as `trips` says, in one go: for
    code in which a search over all numbers of trips would not end."""
    result = dict(graph)
    for label, block in graph.items():
        times = [number for opcode, number in trips.items() if count(block.opcodes, opcode)]
        if label in block.next and times:
            after = [following for following in block.next if following != label]
            result[label] = Block(block.opcodes * times[0], block.guarded * times[0], after)
    return result


def busiest(graph: dict[str, Block], opcode: str) -> str:
    """The block with the most of an opcode. LookupError: none has any."""
    label = max(graph, key=lambda label: count(graph[label].opcodes, opcode))
    if count(graph[label].opcodes, opcode) == 0:
        raise LookupError(f"no {opcode} in the code")
    return label


def count(opcodes: Iterable[str], name: str) -> int:
    """How many are of this name, which may leave out the last modifiers."""
    return sum(f"{opcode}.".startswith(f"{name}.") for opcode in opcodes)


def cheapest_walk(graph: dict[str, Block], start: str, end: str, work: dict[str, int]) -> Counter[str]:
    """How often each opcode is issued on the walk from a block to another, or back to it, that has the fewest
    instructions and executes each opcode of `work` exactly so often; a guarded one may be issued without. Those of the
    last block are not counted. LookupError: there is no such walk."""
    wanted = tuple(work.values())
    does = {  # the least and the most of each
        label: [(count(block.opcodes, name) - count(block.guarded, name), count(block.opcodes, name)) for name in work]
        for label, block in graph.items()
    }
    useful = leads_to(graph, end, [label for label in graph if fits(does[label], wanted)])
    # A state: block, work done before it, and to which block the function returns that the block is in.
    come_from: dict[tuple, tuple | None] = {}
    queue: list[tuple] = [(0, start, (0,) * len(wanted), "", None)]
    while queue:
        cost, label, done, return_to, before = heapq.heappop(queue)
        if before and label == end and done == wanted:
            return opcodes_until(graph, come_from, before)
        state = (label, done, return_to)
        if state in come_from:
            continue
        come_from[state] = before
        block = graph[label]
        cost += len(block.opcodes)
        if block.calls:
            after = [] if return_to else [(block.calls, block.next[0])]
        elif block.returns:
            after = [(return_to, "")] if return_to else []
        else:
            after = [(following, return_to) for following in block.next if return_to or following in useful]
        ranges = [
            range(a + least, min(a + most, b) + 1)
            for a, b, (least, most) in zip(done, wanted, does[label], strict=True)
        ]
        for now_done in itertools.product(*ranges):
            for following, returning_to in after:
                heapq.heappush(queue, (cost, following, now_done, returning_to, state))
    raise LookupError(f"no way through the code executes {work}")


def fits(done: list[tuple[int, int]], wanted: tuple[int, ...]) -> bool:
    return all(least <= most for (least, _), most in zip(done, wanted, strict=True))


def leads_to(graph: dict[str, Block], label: str, among: list[str]) -> set[str]:
    """The blocks from which a way through `among` leads to a block; those of called functions lead to none."""
    before: dict[str, list[str]] = {}
    for start in among:
        for after in graph[start].next:
            before.setdefault(after, []).append(start)
    found, new = set(), [label]
    while new:
        reached = new.pop()
        if reached not in found:
            found.add(reached)
            new += before.get(reached, [])
    return found


def opcodes_until(graph: dict[str, Block], come_from: dict[tuple, tuple | None], state: tuple | None) -> Counter[str]:
    issued: Counter[str] = Counter()
    while state is not None:
        issued.update(graph[state[0]].opcodes)
        state = come_from[state]
    return issued
