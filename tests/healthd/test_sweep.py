"""Whose a process is, as /proc tells. What happens to them on a real server: test_probes."""

from __future__ import annotations

from ic.healthd import sweep


def one(
    pid: int, parent: int, *, environ: bytes = b"", state: str = "S", name: str = "x"
) -> sweep.Process:
    stat = f"{pid} ({name}) {state} {parent} 0 0 0 -1 4194560".encode()
    found = sweep.process(pid, stat, environ, "web.1")
    assert found is not None
    return found


def test_a_process_is_read_whatever_its_name_is() -> None:
    odd = one(7, 3, name="a) R 1 (b\x1b[31m")
    assert (odd.pid, odd.parent, odd.name) == (7, 3, "a) R 1 (b [31m")


def test_what_is_gone_or_cut_is_no_process() -> None:
    assert sweep.process(7, b"", b"", "m") is None
    assert sweep.process(7, b"7 (sle", b"", "m") is None


def test_only_the_whole_variable_is_the_marker() -> None:
    assert one(2, 0, environ=b"A=b\0IC_PROBE=web.1\0C=d").marked
    assert one(2, 0, environ=b"IC_PROBE=web.1").marked
    assert not one(2, 0, environ=b"IC_PROBE=web.12\0").marked
    assert not one(2, 0, environ=b"X_IC_PROBE=web.1\0").marked


def test_children_of_the_marked_belong_to_it_with_a_cleaned_environment_too() -> None:
    processes = [
        one(1, 0),
        one(9, 1, name="grandchild, adopted", environ=b"IC_PROBE=web.1\0"),
        one(5, 4),
        one(4, 3),
        one(3, 0, environ=b"IC_PROBE=web.1\0"),
        one(6, 3, state="Z"),
        one(8, 1),
    ]
    assert [found.pid for found in sweep.family(processes)] == [9, 5, 4, 3]


def test_nothing_is_found_among_others() -> None:
    assert sweep.family([one(1, 0), one(2, 1)]) == []
