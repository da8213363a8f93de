"""The stand-in for certifi."""

import pytest

from ic.boot import cabundle


def test_the_first_bundle_that_exists_is_taken(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("ca")
    (folder / "two").write_text("PEM")
    monkeypatch.setattr(cabundle, "PLACES", (str(folder / "one"), str(folder / "two")))
    assert cabundle.where() == str(folder / "two")
    assert cabundle.contents() == "PEM"


def test_a_missing_bundle_is_no_error_until_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path_factory.mktemp("ca") / "none")
    monkeypatch.setattr(cabundle, "PLACES", (missing,))
    assert cabundle.where() == missing
    with pytest.raises(FileNotFoundError):
        cabundle.contents()
