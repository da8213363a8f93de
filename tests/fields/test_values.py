"""Values of the right type that cannot be read. Rows were checked against docker compose."""

from collections.abc import Callable

import pytest

from ic.fields import tree, values
from tests.compose import stacks

Fault = Callable[[tree.Node], str]

RIGHT: list[tuple[Fault, str]] = [
    (values.duration, "1m30s"), (values.duration, "-1s"), (values.duration, "1.5m"),
    (values.size, "1.5 GB"), (values.size, "64m"), (values.size, "-1"), (values.size, "'0'"),
    (values.mode, "'0440'"), (values.mode, "288"),
    (values.whole, "3"), (values.whole_text, "'3'"), (values.whole_text, "3"),
    (values.float_text, "'0.5'"), (values.float_text, "1e3"),
    (values.count, "all"), (values.count, "ALL"), (values.count, "'3'"), (values.count, "3"),
    (values.negative, "0"), (values.negative, "'-1'"),
    (values.up_to(9), "0"), (values.up_to(9), "9"), (values.up_to(9), "9.0"), (values.up_to(9), "'x'"),
    (values.option, "a"), (values.option, "7"), (values.option, "~"),
    (values.exact, "3"), (values.no_fraction, "'1.5'"), (values.text, "a"),
    (values.variable, "A=b"), (values.variable, "A"), (values.variable, "=b"),
    (values.host, "a=1.1.1.1"), (values.host, "a:1.1.1.1"), (values.host, "a=::1"),
    (values.hosts, "{a: 1.1.1.1}"), (values.hosts, "[a]"),
]  # fmt: skip
WRONG: list[tuple[Fault, str, str]] = [
    (values.duration, "abc", "'abc' is an invalid duration; write it like 10s or 1m30s"),
    (values.duration, "'10'", "'10' is an invalid duration; write it like 10s or 1m30s"),
    (values.duration, "''", "'' is an invalid duration; write it like 10s or 1m30s"),
    (values.duration, "1h 30m", "'1h 30m' is an invalid duration; write it like 10s or 1m30s"),
    (values.size, "1x", "'1x' is an invalid size; write it like 64m or 1.5g"),
    (values.size, "'-1'", "'-1' is an invalid size; write it like 64m or 1.5g"),
    (values.mode, "rw", "invalid file mode 'rw'; write it like \"0440\""),
    (values.mode, "1.5", "invalid file mode 1.5"),
    (values.whole, "'3'", "must be an integer, not the string '3'"),
    (values.whole_text, "x", "'x' is not a whole number"),
    (values.float_text, "abc", "'abc' is not a number"),
    (values.count, "some", "'some' is an invalid value: 'all' or a number is allowed"),
    (values.negative, "-1", "-1 must not be negative"),
    (values.up_to(9), "-1", "-1 is not a number from 0 to 9"),
    (values.up_to(9), "10", "10 is not a number from 0 to 9"),
    (values.up_to(9, -9), "-10", "-10 is not a number from -9 to 9"),
    (values.option, "true", "must be text"),
    (values.option, "1.5", "must be text"),
    (values.option, "[a]", "must be text"),
    (values.exact, "'3'", "must be an integer, not the string '3'"),
    (values.no_fraction, "3.0", "3 must be written without a point or an exponent"),
    (values.text, "1", "must be a string"),
    (
        values.variable,
        "'A =b'",
        "'A ' is not the name of an environment variable: it has a trailing space",
    ),
    (values.host, "a", "'a' has no IP address; write it like host=10.0.0.1"),
    (values.host, "=1.1.1.1", "'' is not the name of a host"),
    (values.hosts, "{'a:b': 1.1.1.1}", "'a:b' is not the name of a host"),
]


@pytest.mark.parametrize(("fault", "text"), RIGHT)
def test_what_can_be_read(fault: Fault, text: str) -> None:
    assert fault(stacks.node(text)) == ""


@pytest.mark.parametrize(("fault", "text", "reason"), WRONG)
def test_what_cannot(fault: Fault, text: str, reason: str) -> None:
    assert fault(stacks.node(text)) == reason
