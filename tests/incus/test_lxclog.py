"""Exit codes from lxc.log: every form that was seen on a real server."""

from __future__ import annotations

import pytest

from ic.incus import lxclog

START = b'lxc p_web 20261123061053.288 INFO     start - ../src/lxc/start.c:lxc_init:882 - Container "p_web" is initialized\n'
LINE = (
    b"lxc p_web 20261123061053.288 INFO     error - ../src/lxc/error.c:lxc_error_set_and_log:31 - "
)
EXEC = b"lxc p_web 20261123061053.816 ERROR    start - ../src/lxc/start.c:start:2209 - "


@pytest.mark.parametrize(
    ("log", "code"),
    [
        (START, 0),
        (START + LINE + b"Child <145> ended on error (37)\n", 37),
        (START + LINE + b"Child <145> ended on error (255)\n", 255),
        (START + LINE + b"Child <145> ended on signal Killed(9)\n", 137),
        (START + LINE + b"Child <145> ended on signal (15)\n", 143),
        (START + EXEC + b'No such file or directory - Failed to exec "/nonexistent"\n', 127),
        (START + EXEC + b'Permission denied - Failed to exec "/etc"\n', 126),
        (START + EXEC.replace(b"2209", b"2119") + b'Failed to spawn container "p_web"\n', 128),
        (b"", None),
        (b"lxc p_web 20261123061053.288 ERROR    utils - something\n", None),
    ],
)
def test_an_exit_code_is_read_from_each_form_of_the_line(log: bytes, code: int | None) -> None:
    assert lxclog.exit_code(log) == code


def test_the_last_end_counts_when_a_hook_ended_badly_before() -> None:
    log = (
        START + LINE + b"Child <2> ended on error (1)\n" + LINE + b"Child <3> ended on error (5)\n"
    )
    assert lxclog.exit_code(log) == 5


def test_a_stop_by_force_is_told_from_an_exit() -> None:
    killed = START + LINE + b"Child <145> ended on signal Killed(9)\n"
    stop = b"lxc p_web 20261123122613.311 INFO     commands - ../src/lxc/commands.c:lxc_cmd_stop:1127 - "
    assert not lxclog.forced(killed)
    assert lxclog.forced(killed + stop + b'Container "p_web" has stopped\n')


def test_a_run_goes_on_until_its_log_has_the_hook_of_an_end() -> None:
    hook = (
        b"lxc p_web 20261123160234.415 INFO     utils - ../src/lxc/utils.c:run_script_argv:590 - "
    )
    script = b"Executing script \"/proc/47/exe callhook /var/lib/incus 'p' 'web' "
    begun = START + hook + script + b'start" for container "p_web"\n'
    assert lxclog.goes_on(begun)
    assert not lxclog.goes_on(begun + hook + script + b'stopns" for container "p_web"\n')
    assert not lxclog.goes_on(begun + hook + script + b'stop" for container "p_web"\n')
    assert not lxclog.goes_on(begun + LINE + b"Child <145> ended on error (37)\n")
    assert not lxclog.goes_on(b"")  # no level info: nobody can tell


def test_an_end_stands_in_the_log_of_a_run_or_the_run_goes_on() -> None:
    assert lxclog.over(START + LINE + b"Child <145> ended on error (37)\n")
    stop = b"Executing script \"/proc/47/exe callhook /var/lib/incus 'p' 'web' stop\" for it\n"
    assert lxclog.over(START + LINE + stop)  # an exit with 0 has no line of its own
    assert not lxclog.over(START)
    assert not lxclog.over(b"")
