"""The count of a kernel's instructions is that of the cheapest way through its machine code that does the work."""

from __future__ import annotations

import pytest

sass = pytest.importorskip("sass", reason="not run from a checkout: benchmarks/ is not there")
import budget_table  # noqa: E402
import gpu_budget  # noqa: E402

# A loop over steps that stages one or two packs, the second under a predicate, waits, scans two elements at a time in
# an inner loop, and may store; a slow division is called where it is needed.
LISTING = """\
.text._Z6kernelv:
_Z6kernelv:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/              @!P0 EXIT ;
.L_x_1:
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0030*/               @P2 BRA P3, `(.L_x_3) ;
        /*0040*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0050*/                   STS.128 [R0], R4 ;
        /*0060*/               @P1 STS.128 [R0+0x10], R4 ;
        /*0070*/                   BRXU UR14 -0x80   (*"BRANCH_TARGETS .L_x_2,.L_x_3"*);
.L_x_2:
        /*0080*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
.L_x_3:
        /*0090*/                   UIADD3 UR4, UR4, 0x1, URZ ;
.L_x_4:
        /*00a0*/                   FMNMX.NAN R1, R1, R2, !PT ;
        /*00b0*/                   FMNMX.NAN R3, R3, R2, !PT ;
        /*00c0*/                   FADD R5, R1, R3 ;
        /*00d0*/               @P1 BRA `(.L_x_4) ;
        /*00e0*/               @P3 BRA `(.L_x_5) ;
        /*00f0*/                   STG.E [R6.64], R5 ;
.L_x_5:
        /*0100*/               @P2 BRA `(.L_x_1) ;
        /*0110*/                   EXIT ;
        .weak           $__internal_0_$__cuda_sm20_div_s64
$__internal_0_$__cuda_sm20_div_s64:
        /*0120*/                   MUFU.RCP R7, R7 ;
        /*0130*/                   RET.REL.NODEC R8 `(_Z6kernelv) ;
.L_x_6:
        /*0140*/                   BRA `(.L_x_6);
"""


@pytest.fixture
def graph():
    return sass.blocks(sass.functions(LISTING)["_Z6kernelv"])


def cycle(graph, **work):
    anchor = sass.busiest(graph, "FMNMX")
    issued = sass.cheapest_walk(graph, anchor, anchor, {**work, "STG": work.get("STG", 0)})
    return sum(issued.values()), issued


def test_the_work_decides_how_often_a_loop_runs_and_which_branches_are_taken(graph):
    assert cycle(graph, FMNMX=2)[0] == 4  # the inner loop
    length, issued = cycle(graph, FMNMX=6, BAR=1)
    assert length == 3 * 4 + len(["P3 BRA", "P2 BRA", "BAR", "P2 BRA", "UIADD3"])
    assert issued["FMNMX.NAN"] == 6 and "STS.128" not in issued and "STG.E" not in issued
    assert cycle(graph, FMNMX=6, BAR=1, STG=1)[0] == length + 1
    assert cycle(graph, FMNMX=6, BAR=3)[0] == length + 2 * 5


def test_a_walk_may_end_at_another_block_and_a_loop_of_one_block_may_have_its_trips_given(graph):
    anchor, start = sass.busiest(graph, "FMNMX"), sass.busiest(graph, "BAR")
    to_start = sass.cheapest_walk(graph, anchor, start, {"FMNMX": 2, "STG": 0})
    assert sum(to_start.values()) == 4 + len(["P3 BRA", "P2 BRA"]) and "BAR.SYNC.DEFER_BLOCKING" not in to_start
    looped = sass.with_trips(graph, {"FMNMX": 3})
    assert cycle(looped, FMNMX=6, BAR=1) == cycle(graph, FMNMX=6, BAR=1)
    with pytest.raises(LookupError):
        cycle(looped, FMNMX=2, BAR=1)
    assert sass.with_trips(graph, {"BAR": 3}) == graph  # its block does not repeat itself


def test_an_instruction_whose_predicate_is_false_is_issued_all_the_same(graph):
    one, two = (cycle(graph, FMNMX=2, BAR=1, **{"STS.128": stores}) for stores in (1, 2))
    assert one == two and one[1]["STS.128"] == 2
    assert "CALL.REL.NOINC" not in one[1]


def test_a_call_is_followed_and_comes_back(graph):
    _, issued = cycle(graph, FMNMX=2, BAR=1, MUFU=1)
    assert issued["CALL.REL.NOINC"] == issued["RET.REL.NODEC"] == issued["MUFU.RCP"] == 1


def test_what_cannot_be_done_or_is_not_known_is_an_error(graph):
    with pytest.raises(LookupError, match="'FMNMX': 3"):
        cycle(graph, FMNMX=3)
    with pytest.raises(LookupError, match="no DFMA"):
        sass.busiest(graph, "DFMA")
    with pytest.raises(ValueError, match="no known pipe: QQQ"):
        sass.blocks(LISTING.replace("S2R R0", "QQQ R0"))
    with pytest.raises(ValueError, match="without targets: .*BRA"):
        sass.blocks(LISTING.replace("`(.L_x_1)", "R2"))


def test_the_table_is_written_from_the_rows(tmp_path):
    row = dict.fromkeys(gpu_budget.COLUMNS, "1.25") | {"kernel": "some", "share_of_floor": "0.51", "commit": "abc"}
    (tmp_path / "gpu_budget.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    assert (
        "| some | 1.25 |" in (text := budget_table.budget(tmp_path)) and "| 51% |" in text and "at commit abc" in text
    )


def test_resident_warps_are_limited_by_what_is_used_up_first():
    assert gpu_budget.resident_warps(256, 95, 5120) == 16
    assert gpu_budget.resident_warps(128, 32, 40 * 1024) == 20
    assert gpu_budget.resident_warps(256, 32, 0) == 64
