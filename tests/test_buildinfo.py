"""Which build is running."""

from ic import buildinfo


def test_a_checkout_is_called_source() -> None:
    assert buildinfo.build_id() == "source"


def test_a_checkout_has_no_archive() -> None:
    assert buildinfo.archive() == ""
