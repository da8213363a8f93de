"""Variables in texts: every form, what is refused, and that the scanner is linear."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import interpolate
from ic.fields import tree
from tests.compose import stacks

ENV = {"A": "va", "E": "", "N": "n n", "D": "$A"}

# Each checked against docker compose 2.40.3.
FORMS = {
    "$A": "va", "${A}": "va", "$$A": "$A", "$$$A": "$va", "${A:-d}": "va", "${U:-d}": "d",
    "${E:-d}": "d", "${U-d}": "d", "${E-d}": "", "${A:+x}": "x", "${E:+x}": "", "${U:+x}": "",
    "${E+x}": "x", "${U+x}": "", "${A:?m}": "va", "${E?m}": "", "$": "$", "a$": "a$", "$5": "$5",
    "${U:-${A}}": "va", "${U:-${V:-${A}}}": "va", "${U:-a}b}": "ab}", "${U:-{a}}": "{a}",
    "${U:-{}}": "{}", "${U:-{x}": "{x", "${U:-$$A}": "$A", "${U:-a:-b}": "a:-b",
    "${A}${E}${N}": "van n", "x${A}y$U-": "xvay-", "${D}": "$A", '${U:-"q"}': '"q"', "${_x:-1}": "1",
    "${a}": "", "${A-}": "va", "${U-}": "", "%{A}": "%{A}", "$(A)": "$(A)", "${A}}": "va}",
    "{$A}": "{va}", "${A:-b}-${U-c}": "va-c", "${U:-$A-$N}": "va-n n", "$A[0]": "va[0]", "$A.b": "va.b",
    "$\u00e9": "$\u00e9", "$${A}": "${A}", "\\$A": "\\va", "a${U:-b}c}d": "abc}d", "$A$$": "va$",
    "${U:-a}\n${U:-b}": "a\nb", "": "", "plain": "plain", "${U:-{a}\nb}": "{a\nb}",
    "${U:-${U:-{}}} x }": "{}} x ", "${A:+{} x} ${U:-{}}": "{} x} {",
}  # fmt: skip


@pytest.mark.parametrize(("text", "result"), FORMS.items())
def test_forms(text: str, result: str) -> None:
    assert interpolate.substitute(text, ENV, lambda _: None) == result


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("${U:?no value}", "E_INTERP_REQUIRED", "required variable U is missing a value: no value"),
        ("${E:?}", "E_INTERP_REQUIRED", "required variable E is missing a value"),
        ("${U?${A} is}", "E_INTERP_REQUIRED", "va is"),
        ("${A:-${Z:?err}}", "E_INTERP_REQUIRED", "err"),
        ("${", "E_INTERP_SYNTAX", "never closed"),
        ("${A", "E_INTERP_SYNTAX", "never closed"),
        ("${A:-x}${", "E_INTERP_SYNTAX", "never closed"),
        ("${U:-a\nb}", "E_INTERP_SYNTAX", "never closed by '}' on its line"),
        ("${U:-{}} ${A}", "E_INTERP_SYNTAX", "never closed"),
        ("${}", "E_INTERP_SYNTAX", "not a variable"),
        ("${5}", "E_INTERP_SYNTAX", "not a variable"),
        ("${A b}", "E_INTERP_SYNTAX", "not a variable"),
        ("${A:}", "E_INTERP_SYNTAX", "not a variable"),
        ("${A:x}", "E_INTERP_SYNTAX", "not a variable"),
        ("${U:=x}", "E_INTERP_SYNTAX", "not a variable"),
        ("${A%x}", "E_INTERP_SYNTAX", "not a variable"),
        ("${#A}", "E_INTERP_SYNTAX", "not a variable"),
        ("${\u00e9}", "E_INTERP_SYNTAX", "not a variable"),
        ("${U:-" * 1000 + "x" + "}" * 1000, "E_INTERP_DEPTH", "deeper than"),
        ("$X" * 5, "E_INTERP_SIZE", "grows beyond"),
    ],
)  # fmt: skip
def test_what_cannot_be_interpolated(text: str, code: str, words: str) -> None:
    env = {**ENV, "X": "x" * 2**21}
    with pytest.raises(interpolate.Fault) as caught:
        interpolate.substitute(text, env, lambda _: None)
    assert caught.value.code == code
    assert words in caught.value.reason


def test_only_variables_that_are_needed_count_as_unset() -> None:
    unset: list[str] = []
    interpolate.substitute("$U ${V} ${A:-$W} ${X:-$Y} ${Z+$Q} ${A:+$R}", ENV, unset.append)
    assert unset == ["U", "V", "Y", "R"]


@given(st.text().filter(lambda text: "$" not in text))
def test_a_text_without_a_dollar_stays(text: str) -> None:
    assert interpolate.substitute(text, ENV, lambda _: None) == text


@given(st.text(alphabet="${}:-?+AUx "))
def test_any_text_gives_a_result_or_a_fault(text: str) -> None:
    with contextlib.suppress(interpolate.Fault):
        assert isinstance(interpolate.substitute(text, ENV, lambda _: None), str)


@given(st.text(alphabet="ab${}:-"))
def test_a_doubled_dollar_gives_every_text_back(text: str) -> None:
    assert interpolate.substitute(text.replace("$", "$$"), {}, lambda _: None) == text


@pytest.mark.parametrize("piece", ["${A:-{x}", "$A", "${U:-y}", "{", "$", "${A}}{"])
def test_ten_times_the_text_takes_about_ten_times_as_long(piece: str) -> None:
    def seconds(count: int) -> float:
        best = 9.0
        for _ in range(3):
            started = time.thread_time()
            with contextlib.suppress(interpolate.Fault):
                interpolate.substitute(piece * count, {"A": ""}, lambda _: None)
            best = min(best, time.thread_time() - started)
        return best

    assert seconds(30_000) < 12 * seconds(3_000) + 0.02


def interpolated(text: str, env: dict[str, str]) -> tuple[object, list[str]]:
    report = tree.Report()
    found = interpolate.interpolate(stacks.node(text), env, report)
    return tree.plain(found), [f"{one.code} {one}" for one in report.diagnostics]


def test_every_scalar_is_reached_and_no_key() -> None:
    value, _ = interpolated("a: $A\n$A: [x$A, {b: '${A}'}]\nn: 5\nx-a: {l: ['$A']}\n", {"A": "v"})
    assert value == {"a": "v", "$A": ["xv", {"b": "v"}], "n": 5, "x-a": {"l": ["v"]}}


def test_an_unset_variable_is_told_once_with_its_first_place() -> None:
    _, said = interpolated("a: $U\nb: [$U, $V]\n", {})
    assert said == [
        "W_UNSET f:1:4: the variable U is not set; an empty text is used",
        "W_UNSET f:2:9: the variable V is not set; an empty text is used",
    ]


def test_faults_name_path_and_place_and_all_are_told() -> None:
    _, said = interpolated("a: {b: ['${']}\nc: ${X:?why}\n", {})
    assert said == [
        "E_INTERP_SYNTAX f:1:9: a.b[0]: invalid interpolation template: '${' is never closed by '}'",
        "E_INTERP_REQUIRED f:2:4: c: required variable X is missing a value: why",
    ]


def test_what_aliases_share_is_interpolated_once_and_stays_shared() -> None:
    report = tree.Report()
    root = interpolate.interpolate(stacks.node("a: &a {b: $A}\nc: *a\n"), {"A": "v"}, report)
    assert root.child("a") is root.child("c")


def test_a_tree_without_variables_is_the_same_tree() -> None:
    root = stacks.node("a: {b: [1, x]}\n")
    assert interpolate.interpolate(root, {}, tree.Report()) is root


def test_a_value_of_the_environment_that_is_no_text_is_refused() -> None:
    _, said = interpolated("a: $A\n", {"A": "\udcff"})
    assert said == ["E_VALUE_CTRL f:1:4: a: the value holds the lone surrogate U+DCFF"]
