"""Reading `volumes` and `tmpfs`. Forms were checked against docker compose."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.fields import storage
from tests.fields import reading

Mount = storage.Mount


def bind(source: str, target: str, **more: Any) -> storage.Mount:
    return Mount(
        type="bind", source=source, target=target, create_host_path=True, detailed=True, **more
    )


def volume(source: str, target: str, **more: Any) -> storage.Mount:
    return Mount(type="volume", source=source, target=target, detailed=True, **more)


SHORT = {
    "data:/d": volume("data", "/d"),
    "data:/d:ro": volume("data", "/d", read_only=True),
    "data:/d:rw,nocopy": volume("data", "/d", nocopy=True),
    "/anon": volume("", "/anon"),
    "./a:/b:ro,z": bind("./a", "/b", read_only=True, selinux="z"),
    "../a:/b/": bind("../a", "/b"),
    ".:/b": bind(".", "/b"),
    "~/a:/b": bind("~/a", "/b"),
    "/a/../c:/b/../d//e": bind("/a/../c", "/d/e"),
    "/a:/b:cached": bind("/a", "/b"),
    "/x": Mount(type="volume", target="/x"),
    r"C:\a:/b": bind(r"C:\a", "/b"),
}


@pytest.mark.parametrize(("spec", "mount"), SHORT.items())
def test_short_forms(spec: str, mount: storage.Mount) -> None:
    assert storage.parse_mount(spec) == mount


@pytest.mark.parametrize("spec", ["", ":", "a:", ":/a", "/a::/b", "/a:/b:ro:x"])
def test_what_is_no_short_form(spec: str) -> None:
    with pytest.raises(ValueError, match=r"empty|colons"):
        storage.parse_mount(spec)


@given(st.text(alphabet="ab/.:~,roz\\C ", max_size=25))
def test_any_text_gives_a_mount_or_a_reason(spec: str) -> None:
    try:
        mount = storage.parse_mount(spec)
    except (ValueError, NotImplementedError):
        return
    assert mount.target


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("./a", "/srv/a"),
        ("../a", "/a"),
        (".", "/srv"),
        ("~", "/home/me"),
        ("~/a", "/home/me/a"),
        ("/a/", "/a/"),
    ],
)
def test_sources_of_binds_are_rooted(written: str, path: str) -> None:
    section = reading.right(storage, f"volumes: ['{written}:/t']", root="/srv", home="/home/me")
    assert section.volumes[0].source == path


LONG = {
    "{type: bind, source: /a, target: /b}": Mount(type="bind", source="/a", target="/b"),
    "{type: bind, source: /a, target: /b, read_only: 'true', bind: {create_host_path: true, selinux: Z}}":
        bind("/a", "/b", read_only=True, selinux="Z"),
    "{type: volume, target: /b}": Mount(type="volume", target="/b"),
    "{type: volume, source: v, target: /b/, consistency: cached, volume: {nocopy: true}}":
        volume("v", "/b", nocopy=True, consistency="cached"),
    "{type: tmpfs, target: /b}": Mount(type="tmpfs", target="/b"),
    "{type: tmpfs, target: /b, tmpfs: {size: 64m, mode: 0o1777}}":
        Mount(type="tmpfs", target="/b", size=2**26, mode=0o1777, detailed=True),
    "{type: tmpfs, target: /b, tmpfs: {size: 1024, mode: 0755}}":
        Mount(type="tmpfs", target="/b", size=1024, mode=0o755, detailed=True),
}  # fmt: skip


@pytest.mark.parametrize(("written", "mount"), LONG.items())
def test_long_forms(written: str, mount: storage.Mount) -> None:
    assert reading.right(storage, f"volumes: [{written}]").volumes == (mount,)


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        ("/run", Mount(type="tmpfs", target="/run", short="/run")),
        ("/run:size=64m,mode=755,ro", Mount(type="tmpfs", target="/run", size=2**26, mode=0o755, read_only=True, short="/run:size=64m,mode=755,ro")),
        ("/run:noexec,nosuid", Mount(type="tmpfs", target="/run", short="/run:noexec,nosuid")),
    ],
)  # fmt: skip
def test_the_key_tmpfs(written: str, mount: storage.Mount) -> None:
    assert reading.right(storage, f"tmpfs: {written}").volumes == (mount,)
    assert reading.right(storage, f"tmpfs: ['{written}']").volumes == (mount,)


def test_a_target_given_twice_counts_once_and_the_later_stays() -> None:
    section = reading.right(storage, "volumes: ['one:/t', 'two:/u', './c:/t/']", root="/srv")
    assert [(one.source, one.target) for one in section.volumes] == [
        ("/srv/c", "/t"),
        ("two", "/u"),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("volumes: /a", "E_TYPE 10 w.volumes must be a list, not text"),
        ("volumes: [1]", 'E_TYPE 11 w.volumes[0] must be text, not a number (put it in quotes: "1")'),
        ("volumes: ['/a:/b:rshared']", "E_UNSUPPORTED 11 w.volumes[0]: the option 'rshared' is not supported yet"),
        ("volumes: [{target: /b}]", "E_VALUE 11 w.volumes[0] has no type (add type: volume)"),
        ("volumes: [{type: npipe, target: /b}]", "E_UNSUPPORTED 18 w.volumes[0].type: 'npipe' is not supported yet"),
        ("volumes: [{type: volumes, target: /b}]", "E_VALUE 18 w.volumes[0].type must be one of volume, bind, tmpfs, not 'volumes' (did you mean 'volume'?)"),
        ("volumes: [{type: volume}]", "E_VALUE 11 w.volumes[0] has no target"),
        ("volumes: [{type: bind, target: /b}]", "E_VALUE 11 w.volumes[0]: a bind needs a source"),
        ("volumes: [{type: tmpfs, target: /b, source: a}]", "E_VALUE 11 w.volumes[0]: a tmpfs has no source"),
        ("volumes: [{type: volume, target: /b, volume: {subpath: x}}]", "E_UNSUPPORTED 47 w.volumes[0].volume.subpath is not supported yet"),
        ("volumes: [{type: bind, source: a, target: /b, bind: {propagation: shared}}]", "E_UNSUPPORTED 54 w.volumes[0].bind.propagation is not supported yet"),
        ("volumes: [{type: volume, target: /b, targte: x}]", "E_UNKNOWN_KEY 38 w.volumes[0] has the unknown key 'targte' (did you mean 'target'?)"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {size: 0.5}}]", "E_TYPE 51 w.volumes[0].tmpfs.size must be a size like 64m, not a number"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {size: x}}]", "E_VALUE 51 w.volumes[0].tmpfs.size: 'x' is not a size; write it like 64m or 1.5g"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {mode: 99999}}]", "E_VALUE 51 w.volumes[0].tmpfs.mode: 99999 is not a file mode"),
        ("tmpfs: ''", "E_VALUE 8 w.tmpfs[0] is empty; it must be a path"),
        ("tmpfs: /a:size=x", "E_VALUE 8 w.tmpfs[0]: 'x' is not a size; write it like 64m or 1.5g"),
        ("tmpfs: /a:mode=9", "E_VALUE 8 w.tmpfs[0]: '9' is not a file mode"),
        ("tmpfs: /a:huge=1", "E_UNSUPPORTED 8 w.tmpfs[0]: the option 'huge=1' is not supported yet"),
        ("volumes: [/a]\ntmpfs: /a", "E_MODEL_CONFLICT 8 w: /a is mounted twice; first at f:1:11"),
    ],
)  # fmt: skip
def test_faults(body: str, message: str) -> None:
    assert reading.fault(storage, body) == message
