"""Reading `image` and `pull_policy`."""

import pytest

from ic.fields import image
from tests.fields import reading


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("always", "always"),
        ("never", "never"),
        ("missing", "missing"),
        ("if_not_present", "missing"),
    ],
)
def test_pull_policies(written: str, policy: image.PullPolicy) -> None:
    section = reading.right(image, f"image: r:5000/a@sha256:1\npull_policy: {written}")
    assert section == image.Image(image="r:5000/a@sha256:1", pull_policy=policy)


@pytest.mark.parametrize("written", ["build", "daily", "weekly", "every_12h"])
def test_policies_of_the_specification_that_wait(written: str) -> None:
    message = f"E_UNSUPPORTED 14 w.pull_policy: '{written}' is not supported yet"
    assert reading.fault(image, f"pull_policy: {written}") == message


def test_an_unknown_policy() -> None:
    assert "did you mean 'always'?" in reading.fault(image, "pull_policy: alway")
