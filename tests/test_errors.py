"""Errors: their codes are one per name, their exit statuses those of the table."""

from __future__ import annotations

import re

import pytest

from ic import errors

# The exit statuses of the command line, for the errors that do not end in 1.
STATUSES = {
    "ConfirmationRequired": 3,
    "OwnershipConflict": 3,
    "Refused": 3,
    "StalePlan": 3,
    "JournalError": 4,
    "Corrupt": 4,
    "Full": 4,
    "NewerVersion": 4,
    "Rollback": 4,
    "Fenced": 75,
    "Locked": 75,
    "Interrupted": 130,
}


def kinds(top: type[errors.IcError] = errors.IcError) -> list[type[errors.IcError]]:
    """Every kind of error of the room, the general ones first."""
    below = [kind for kind in top.__subclasses__() if kind.__module__ == errors.__name__]
    return [top, *(one for kind in below for one in kinds(kind))]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(codes) == len(set(codes))
    assert [code for code in codes if not re.fullmatch(r"E_[A-Z_]+", code)] == []


def test_exit_statuses_are_those_of_the_table() -> None:
    assert {
        kind.__name__: kind.exit_status for kind in kinds() if kind.exit_status != 1
    } == STATUSES


@pytest.mark.parametrize("kind", kinds())
def test_an_error_says_its_summary_and_carries_the_rest(kind: type[errors.IcError]) -> None:
    diagnostic = errors.Diagnostic(severity="error", code="x", summary="s")
    error = kind("cannot x y: z", details=("d",), hint="h", diagnostics=(diagnostic,))
    assert str(error) == "cannot x y: z"
    assert (error.summary, error.details, error.hint) == ("cannot x y: z", ("d",), "h")
    assert error.diagnostics == (diagnostic,)
    assert error.code == kind.code


def test_one_error_may_have_a_finer_code_than_its_kind() -> None:
    assert errors.PlanError("x", code="E_SUBNET").code == "E_SUBNET"
    assert errors.PlanError("x").code == "E_PLAN"


def test_a_diagnostic_starts_with_where_it_was_written() -> None:
    place = errors.Position("compose.yaml", 3, 7)
    placed = errors.Diagnostic(severity="warning", code="x", summary="odd", position=place)
    assert str(placed) == "compose.yaml:3:7: odd"
    assert str(errors.Diagnostic(severity="warning", code="x", summary="odd")) == "odd"
