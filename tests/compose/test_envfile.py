"""The grammar of env files. Rows were checked against docker compose 2.40.3."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import envfile


def parsed(
    text: str, outer: dict[str, str] | None = None, above: dict[str, str] | None = None
) -> dict[str, str]:
    return envfile.parse(text.encode(), outer or {}, above or {}, lambda _name, _line: None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1 # c\nB=2#c\n", {"A": "1", "B": "2#c"}),
        ("A='1 # c'\nB=\"2 # c\" # d\n", {"A": "1 # c", "B": "2 # c"}),
        ("#A=1\n\n  B=\n", {"B": ""}),
        ("export A=1\nexport  B = 2\n", {"A": "1", "B": "2"}),
        ("A: 1\nB:2\n", {"A": "1", "B": "2"}),
        ("A\nB=1\nP\n", {"B": "1", "P": "pv"}),
        ("A=$P\nB=${P}x\nC='$P'\nD=\"$P\"\n", {"A": "pv", "B": "pvx", "C": "$P", "D": "pv"}),
        ("A=1\nB=$A\n", {"A": "1", "B": "1"}),
        ("P=x\nB=$P\n", {"P": "x", "B": "pv"}),
        ("A=\"a\\nb\"\nB='a\\nb'\nC=a\\nb\n", {"A": "a\nb", "B": "a\\nb", "C": "a\\nb"}),
        ('A="l1\nl2"\nB=x\n', {"A": "l1\nl2", "B": "x"}),
        ("A='l1\n# no comment\nl2' # c\nB=x\n", {"A": "l1\n# no comment\nl2", "B": "x"}),
        ("A=\"a\\\"b\"\nB='a\\'b'\n", {"A": 'a"b', "B": "a'b"}),
        ('A="\\$P"\nB=$$P\n', {"A": "$P", "B": "$P"}),
        ("A=a b c\nB= x \n", {"A": "a b c", "B": "x"}),
        ("A.B-C=1\nA[0]=2\n1A=3\n", {"A.B-C": "1", "A[0]": "2", "1A": "3"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=x'y'z\nB==1\nC=a=b\n", {"A": "x'y'z", "B": "=1", "C": "a=b"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ('A="\\0101\\t\\\\"\n', {"A": "A\t\\"}),
        ('A="\\0|\\07|\\012|\\0400|\\0388|\\0377"\n', {"A": "\\|\\7|\\12|\\400|\\388|\xff"}),
        ("\ufeffA=\u00e9", {"A": "\u00e9"}),
        ("A=${U:-d}\n", {"A": "d"}),
        ("", {}),
    ],
)
def test_what_a_file_says(text: str, values: dict[str, str]) -> None:
    assert parsed(text, {"P": "pv"}) == values


def test_what_stands_in_earlier_files_is_known_after_the_file_itself() -> None:
    assert parsed("B=$A$C\nC=3\nD=$C", {}, {"A": "1", "C": "2"}) == {"B": "12", "C": "3", "D": "3"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("A=1\nB C=1\n", 2, "holds a space"),
        ("A=1\na%=1\n", 2, "unexpected character"),
        ('A=1\n\nB="x\ny\n', 3, "never closed"),
        ("A=1\nexport ", 2, "a variable name is missing"),
        ("A=1\nB=${U:?no}\n", 2, "required variable U"),
        ("A=${\n", 1, "never closed"),
    ],
)
def test_faults_name_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(envfile.Fault) as caught:
        parsed(text)
    assert caught.value.line == line
    assert words in caught.value.reason


def test_a_nul_is_refused_and_bytes_that_are_no_text() -> None:
    with pytest.raises(envfile.Fault) as caught:
        parsed("A=1\nB=x\0y\n")
    assert (caught.value.code, caught.value.line) == ("E_VALUE_CTRL", 2)
    with pytest.raises(envfile.Fault) as caught:
        envfile.parse(b"A=1\nB=\xff\n", {}, {}, lambda _name, _line: None)
    assert caught.value.line == 2
    with pytest.raises(envfile.Fault) as caught:
        envfile.parse_raw(b"A=1\nB=\xff\n", {})
    assert (caught.value.code, caught.value.line) == ("E_ENV_FILE", 2)


def test_a_comment_may_be_in_any_encoding() -> None:
    assert envfile.parse(b"# \xe9\nA=1 # \xe9\n", {}, {}, lambda _name, _line: None) == {"A": "1"}


def test_a_file_that_says_the_same_everywhere_is_known() -> None:
    assert envfile.is_closed(b"# c\n\nA=1\nB: x\n")
    assert not envfile.is_closed(b"A=$B\n")
    assert not envfile.is_closed(b"A=1\nB\n")


def test_far_too_many_names_and_values_that_grow_are_refused() -> None:
    with pytest.raises(envfile.Fault, match="more than 200000 names"):
        parsed("".join(f"A{at}=1\n" for at in range(200_001)))
    with pytest.raises(envfile.Fault, match="more than 200000 names"):
        parsed("".join(f"A{at}=1 \n" for at in range(200_001)))
    with pytest.raises(envfile.Fault, match="grow beyond") as caught:
        parsed("A=" + "x" * 2**20 + "\n" + "".join(f"B{at}=$A\n" for at in range(9)))
    assert caught.value.line == 9


def test_a_variable_without_a_value_is_told_with_its_line() -> None:
    told: list[tuple[str, int]] = []
    envfile.parse(b"A=1\nB=$U\n", {}, {}, lambda name, line: told.append((name, line)))
    assert told == [("U", 2)]


def test_the_raw_format_takes_lines_as_they_are() -> None:
    content = b"A=$P 'x' # c\n#c\n\nP\nU\n  B=2 \n"
    assert envfile.parse_raw(content, {"P": "pv"}) == {"A": "$P 'x' # c", "P": "pv", "B": "2 "}


def test_the_raw_format_refuses_names_with_spaces() -> None:
    with pytest.raises(envfile.Fault) as caught:
        envfile.parse_raw(b"A=1\n C = 3\n", {})
    assert caught.value.line == 2


NAMES = st.text(alphabet="ABC_x", min_size=1)


@given(
    st.dictionaries(
        NAMES, st.text(alphabet="ab '$\"#\n=\\").filter(lambda value: "\\" not in value)
    )
)
def test_single_quoted_values_read_back(values: dict[str, str]) -> None:
    quoted = {name: value.replace("'", "\\'") for name, value in values.items()}
    text = "".join(f"{name}='{value}'\n" for name, value in quoted.items())
    assert parsed(text) == values


@given(st.text(alphabet="AB=: \n'\"#$\\{}x"))
def test_any_text_gives_values_or_a_fault(text: str) -> None:
    with contextlib.suppress(envfile.Fault):
        assert all(isinstance(value, str) for value in parsed(text).values())


def test_a_value_may_have_no_name() -> None:
    assert parsed("=1\n") == {"": "1"}
    assert parsed("A=1\nB") == {"A": "1", "": "B"}
