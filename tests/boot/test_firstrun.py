"""Where the first start keeps its entry, for whom, and what it does when it cannot.

Each scenario is a shell script in a mount namespace of its own, as root: /home, /tmp and /var/cache are
empty there, `ic` is the zipapp run by Debian's Python, `as_user` runs a command as uid 1234.
"""

import glob
import json
import os
import subprocess

import pytest

from ic.boot import firstrun

PRELUDE = """
mount -t tmpfs -o mode=755 tmpfs /mnt
cp "$PYZ" /mnt/ic.pyz
chmod 755 /mnt/ic.pyz
for place in /home /var/cache; do mount -t tmpfs -o mode=755 tmpfs $place; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -m 755 /home/u
chown 1234:1234 /home/u
cd /
umask 022
clean() { env -i PATH=/usr/bin:/bin "$@"; }
ic() { clean HOME=/root "$@" /usr/bin/python3 /mnt/ic.pyz msgspec; }
as_user() { setpriv --reuid 1234 --regid 1234 --clear-groups "$@"; }
user_ic() { as_user env -i PATH=/usr/bin:/bin "$@" /usr/bin/python3 /mnt/ic.pyz msgspec; }
"""


def scenario(script: str, pyz: str) -> list[str]:
    """The output lines of a script that must succeed; the probe's answers cut to their native part."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", PRELUDE + script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYZ": pyz},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [place(line) for line in done.stdout.splitlines()]


def place(line: str) -> str:
    """A probe's answer as the directory of its entry, or `memory`; other lines as they are."""
    if not line.startswith("{"):
        return line
    answer = json.loads(line)
    native = answer["native"]
    if native.startswith("/proc/self/fd/"):
        return "memory" if answer["finder"] == "SourceFinder" else "native in memory"
    return os.path.dirname(os.path.dirname(native))


SHARED, OWN, LAST, MEMORY = "/var/cache/ic", "/home/u/.cache/ic", "/tmp/ic-cache-1234", "memory"

SCENARIOS = {
    "root keeps it where everybody may read": ("ic; stat -c %a /var/cache/ic", [SHARED, "755"]),
    "a user after root uses root's": (
        "ic >/dev/null; user_ic HOME=/home/u; ls -A /home/u",
        [SHARED],
    ),
    "a user alone keeps it in their cache": (
        "user_ic HOME=/home/u; stat -c '%a %u' /home/u/.cache /home/u/.cache/ic",
        [OWN, "700 1234", "700 1234"],
    ),
    "XDG_CACHE_HOME is honoured": (
        "mkdir /home/u/x; chown 1234 /home/u/x; user_ic HOME=/home/u XDG_CACHE_HOME=/home/u/x",
        ["/home/u/x/ic"],
    ),
    "no HOME and no passwd entry": ("user_ic", [LAST]),
    "HOME is the root directory": ("user_ic HOME=/", [LAST]),
    "HOME is read-only": ("mount -o remount,ro /home; user_ic HOME=/home/u", [LAST]),
    "HOME is read-only but there is a runtime directory": (
        "mkdir -m 700 /mnt/run; chown 1234 /mnt/run; mount -o remount,ro /home;"
        "user_ic HOME=/home/u XDG_RUNTIME_DIR=/mnt/run",
        ["/mnt/run/ic"],
    ),
    "HOME belongs to another user": (
        "chown 4321 /home/u; chmod 777 /home/u; user_ic HOME=/home/u",
        [LAST],
    ),
    "root with a user's HOME leaves nothing there": (
        "ic HOME=/home/u XDG_CACHE_HOME=/home/u/.cache; ls -A /home/u",
        [SHARED],
    ),
    "a cache that everybody may write is not used": (
        "mkdir -m 777 /home/u/.cache; chown 1234 /home/u/.cache; chmod 777 /home/u/.cache;"
        "user_ic HOME=/home/u",
        [LAST],
    ),
    "a cache owned by another is not used": (
        "mkdir -p /home/u/.cache/ic; chown 4321 /home/u/.cache/ic; chmod 777 /home/u/.cache/ic;"
        "user_ic HOME=/home/u",
        [LAST],
    ),
    "a cache that is a link to one's own directory is that directory": (
        "mkdir -m 700 /home/u/real /home/u/.cache; ln -s ../real /home/u/.cache/ic;"
        "chown 1234 /home/u/real /home/u/.cache; user_ic HOME=/home/u",
        ["/home/u/real"],
    ),
    "an entry that another user prepared is not used but replaced": (
        "user_ic HOME=/home/u >/dev/null; chown -R 4321 /home/u/.cache/ic/*; user_ic HOME=/home/u;"
        "stat -c %u /home/u/.cache/ic/*",
        [OWN, "1234"],
    ),
    "a squatted name in the last place is not used": (
        "mkdir -m 777 /tmp/ic-cache-1234; chown 4321 /tmp/ic-cache-1234; user_ic",
        [MEMORY],
    ),
    "a link in the last place is not followed": (
        "mkdir -m 700 /home/u/x; chown 1234 /home/u/x; ln -s /home/u/x /tmp/ic-cache-1234; user_ic; ls /home/u/x",
        [MEMORY],
    ),
    "nothing is writable": (
        "mount -o remount,ro /tmp; mount -o remount,ro /home; user_ic HOME=/home/u",
        [MEMORY],
    ),
    "root with nothing writable": (
        "mount -o remount,ro /tmp; mount -o remount,ro /var/cache; ic",
        [MEMORY],
    ),
    "a full disk": (
        "mkdir /mnt/full; mount -t tmpfs -o size=1m,mode=755 tmpfs /mnt/full;"
        "ic IC_CACHE_DIR=/mnt/full/c; ls -A /mnt/full/c",
        [MEMORY],
    ),
    "a disk mounted noexec": (
        "mkdir /mnt/no; mount -t tmpfs -o noexec,mode=755 tmpfs /mnt/no;"
        "ic IC_CACHE_DIR=/mnt/no/c; ic IC_CACHE_DIR=/mnt/no/c; ls -A /mnt/no/c | wc -l",
        ["native in memory", "native in memory", "1"],
    ),
    "umask 000": (
        "umask 000; user_ic HOME=/home/u; user_ic HOME=/home/u; stat -c %a /home/u/.cache /home/u/.cache/ic",
        [OWN, OWN, "700", "700"],
    ),
    "umask 077 as root still serves everybody": (
        "umask 077; ic; user_ic HOME=/home/u",
        [SHARED, SHARED],
    ),
    "a truncated bundle is made anew": (
        "ic >/dev/null; truncate -s -1 /var/cache/ic/*/lib.bin; ic; ic; ls -A /var/cache/ic | wc -l",
        [SHARED, SHARED, "1"],
    ),
    "an emptied bundle is made anew": (
        "ic >/dev/null; truncate -s 0 /var/cache/ic/*/lib.bin; ic; ls -A /var/cache/ic | wc -l",
        [SHARED, "1"],
    ),
    "a truncated native part is made anew": (
        "ic >/dev/null; truncate -s 100 /var/cache/ic/*/_core.so; ic; ls -A /var/cache/ic | wc -l",
        [SHARED, "1"],
    ),
    "a missing native part is made anew": (
        "ic >/dev/null; rm /var/cache/ic/*/_core.so; ic; ls -A /var/cache/ic | wc -l",
        [SHARED, "1"],
    ),
    "a damaged entry that only root can mend": (
        "ic >/dev/null; truncate -s 0 /var/cache/ic/*/lib.bin; user_ic HOME=/home/u",
        [OWN],
    ),
    "old entries and leftovers go at a first run, others stay": (
        "mkdir -p /var/cache/ic/old-cpython-1 /var/cache/ic/.tmp-1 /var/cache/ic/.tmp-2 /var/cache/ic/x;"
        "touch /var/cache/ic/old-cpython-1/lib.bin;"
        "touch -d '40 days ago' /var/cache/ic/old-cpython-1 /var/cache/ic/x;"
        "touch -d '2 hours ago' /var/cache/ic/.tmp-1; ic; ls -A /var/cache/ic | grep -v -- -cpython-311-",
        [SHARED, ".tmp-2", "x"],
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_cache(name: str, probe_pyz: str) -> None:
    script, expected = SCENARIOS[name]
    if "grep" in script:
        script = script.replace(
            "311", "3$(/usr/bin/python3 -c 'import sys; print(sys.version_info[1])')"
        )
    assert scenario(script, probe_pyz) == expected


def test_forty_first_starts_at_once_leave_one_entry(probe_pyz: str) -> None:
    script = """
for n in $(seq 40); do ic >/tmp/out-$n 2>&1 & done
wait
cat /tmp/out-*
ls -A /var/cache/ic | wc -l
"""
    answers = scenario(script, probe_pyz)
    assert answers == [SHARED] * 40 + ["1"]


def test_starts_at_once_on_a_damaged_entry_all_succeed(probe_pyz: str) -> None:
    script = """
ic >/dev/null
truncate -s 0 /var/cache/ic/*/lib.bin
for n in $(seq 20); do ic >/tmp/out-$n 2>&1 & done
wait
cat /tmp/out-*
ls -A /var/cache/ic | grep -c tmp || true
"""
    answers = scenario(script, probe_pyz)
    assert answers[-1] == "0"
    assert len(answers) == 21
    assert set(answers[:-1]) <= {SHARED, "/tmp/ic-cache-0", "native in memory"}


def test_an_entry_serves_every_copy_of_the_same_zipapp(probe_pyz: str, tmp_path: object) -> None:
    base = str(tmp_path)
    for copy in ("one", "two"):
        os.link(probe_pyz, f"{base}/{copy}.pyz")
        subprocess.run(
            ["/usr/bin/python3", f"{base}/{copy}.pyz", "yaml"],
            env={"PATH": "/usr/bin", "IC_CACHE_DIR": base + "/cache"},
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    assert len(glob.glob(base + "/cache/*")) == 1


def test_what_the_making_takes_is_not_kept_by_who_starts() -> None:
    kept: list[bytes] = []

    def make(*, well: bool) -> bool:
        kept.append(bytes(1024))
        if not well:
            raise MemoryError
        return True

    assert firstrun.apart(lambda: make(well=True))
    assert not firstrun.apart(lambda: make(well=False))
    assert kept == []
