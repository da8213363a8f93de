"""What the fuzz once found worth keeping is read again: fine, or refused by an error of ic, and soon."""

import pathlib
import time

import pytest

from ic import errors
from tests.compose import corpus

SEEDS = corpus.seeds()


def test_there_is_a_corpus() -> None:
    assert len(SEEDS) >= 100


@pytest.mark.parametrize(("name", "text"), SEEDS, ids=[name for name, _ in SEEDS])
def test_a_text_is_read_or_refused_by_an_error_of_ic(
    tmp_path: pathlib.Path, name: str, text: bytes
) -> None:
    corpus.write(text, tmp_path)
    started = time.monotonic()
    outcome = corpus.read(tmp_path)
    assert outcome == "fine" or outcome.startswith("E_"), name
    assert outcome != errors.IcError.code, name
    assert time.monotonic() - started < 5
