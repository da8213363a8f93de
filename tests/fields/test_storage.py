"""Reading `volumes` and `tmpfs`. Forms were checked against docker compose."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.fields import storage, tree
from tests.fields import reading

Mount = storage.Mount


def bind(source: str, target: str, **more: Any) -> storage.Mount:
    return Mount(type="bind", source=source, target=target, create_host_path=True, **more)


def volume(source: str, target: str, **more: Any) -> storage.Mount:
    return Mount(type="volume", source=source, target=target, **more)


AT = errors.Position("f", 1, 1)
MADE = {"bind": {"create_host_path": True}}
SHORT: dict[str, dict[str, Any]] = {
    "data:/d": {"type": "volume", "source": "data", "target": "/d", "volume": {}},
    "data:/d:ro": {"type": "volume", "source": "data", "target": "/d", "read_only": True, "volume": {}},
    "data:/d:rw,nocopy": {"type": "volume", "source": "data", "target": "/d", "volume": {"nocopy": True}},
    "/anon": {"type": "volume", "target": "/anon", "volume": {}},
    "/x": {"type": "volume", "target": "/x"},
    "./a:/b:ro,z": {"type": "bind", "source": "./a", "target": "/b", "read_only": True,
                    "bind": {"selinux": "z", "create_host_path": True}},
    "../a:/b/": {"type": "bind", "source": "../a", "target": "/b", **MADE},
    ".:/b": {"type": "bind", "source": ".", "target": "/b", **MADE},
    "~/a:/b": {"type": "bind", "source": "~/a", "target": "/b", **MADE},
    "/a/../c:/b/../d//e": {"type": "bind", "source": "/a/../c", "target": "/d/e", **MADE},
    "/a:/b:cached": {"type": "bind", "source": "/a", "target": "/b", **MADE},
    "/a:/b:nocopy": {"type": "bind", "source": "/a", "target": "/b", **MADE, "volume": {"nocopy": True}},
    "/a:/b:rshared": {"type": "bind", "source": "/a", "target": "/b",
                      "bind": {"propagation": "rshared", "create_host_path": True}},
    r"C:\a:/b": {"type": "bind", "source": r"C:\a", "target": "/b", **MADE},
    "c:/a:/b": {"type": "bind", "source": "c:/a", "target": "/b", **MADE},
    r"\\.\pipe\x:/b": {"type": "bind", "source": r"\\.\pipe\x", "target": "/b", **MADE},
    "a:b": {"type": "volume", "target": "a:b", "volume": {}},
    "c:": {"type": "volume", "target": "c:"},
    "${A:-b}:/b": {"type": "volume", "source": "${A:-b}", "target": "/b", "volume": {}},
}  # fmt: skip


@pytest.mark.parametrize(("spec", "mount"), SHORT.items())
def test_short_forms(spec: str, mount: dict[str, Any]) -> None:
    assert tree.plain(storage.parse_mount(spec, AT)) == mount


@pytest.mark.parametrize("spec", ["", ":::", "aa:", ":/a", "/a::/b", "/a:/b:ro:x"])
def test_what_is_no_short_form(spec: str) -> None:
    with pytest.raises(ValueError, match=r"empty|colons"):
        storage.parse_mount(spec, AT)


@given(st.text(alphabet="ab/.:~,roz\\C ", max_size=25))
def test_any_text_gives_a_mount_or_a_reason(spec: str) -> None:
    try:
        mount = storage.parse_mount(spec, AT)
    except ValueError:
        return
    target = mount.child("target")
    assert target is not None
    assert target.data


LONG = {
    "{type: bind, source: /a, target: /b}": Mount(type="bind", source="/a", target="/b"),
    "{type: bind, source: /a, target: /b, read_only: 'true', bind: {create_host_path: true, selinux: Z}}":
        bind("/a", "/b", read_only=True),
    "{type: volume, target: /b}": Mount(type="volume", target="/b"),
    "{type: volume, source: v, target: /b, consistency: cached, volume: {nocopy: true}}":
        volume("v", "/b", nocopy=True),
    "{type: tmpfs, target: /b}": Mount(type="tmpfs", target="/b"),
    "{type: tmpfs, target: /b, tmpfs: {size: 64m, mode: 0o1777}}":
        Mount(type="tmpfs", target="/b", size=2**26, mode=0o1777),
    "{type: tmpfs, target: /b, tmpfs: {size: 1024, mode: 0755}}":
        Mount(type="tmpfs", target="/b", size=1024, mode=0o755),
}  # fmt: skip


@pytest.mark.parametrize(("written", "mount"), LONG.items())
def test_long_forms(written: str, mount: storage.Mount) -> None:
    assert reading.right(storage, f"volumes: [{written}]").volumes == (mount,)


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        ("/run", Mount(type="tmpfs", target="/run")),
        ("/run:size=64m,mode=755,ro", Mount(type="tmpfs", target="/run", size=2**26, mode=0o755, read_only=True)),
        ("/run:noexec,nosuid", Mount(type="tmpfs", target="/run")),
    ],
)  # fmt: skip
def test_the_key_tmpfs(written: str, mount: storage.Mount) -> None:
    assert reading.right(storage, f"tmpfs: {written}").volumes == (mount,)
    assert reading.right(storage, f"tmpfs: ['{written}']").volumes == (mount,)


def test_a_target_given_twice_counts_once_and_the_later_stays() -> None:
    section = reading.right(storage, "volumes: ['one:/t', 'two:/u', './c:/t/']")
    assert [(one.source, one.target) for one in section.volumes] == [
        ("./c", "/t"),
        ("two", "/u"),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("volumes: /a", "E_TYPE 10 w.volumes must be an array, not a string"),
        ("volumes: [1]", 'E_TYPE 11 w.volumes[0] must be a mapping or a string, not a number (put it in quotes: "1")'),
        ("volumes: [{target: /b}]", "E_MISSING 11 w.volumes[0]: the required property 'type' is missing (add type:)"),
        ("volumes: [{type: npipe, target: /b}]", "E_UNSUPPORTED 11 w.volumes[0].type: 'npipe' is not supported yet"),
        ("volumes: [{type: volumes, target: /b}]", "E_VALUE 18 w.volumes[0].type must be one of bind, volume, tmpfs, cluster, npipe, image, not 'volumes' (did you mean 'volume'?)"),
        ("volumes: [{type: volume}]", "E_MISSING 11 w.volumes[0]: the required property 'target' is missing (add target:)"),
        ("volumes: [{type: volume, target: /b, targte: x}]", "E_UNKNOWN_KEY 38 w.volumes[0] has the unknown key 'targte', which is not allowed (did you mean 'target'?)"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {size: 0.5}}]", "E_TYPE 51 w.volumes[0].tmpfs.size must be an integer or a string, not a number"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {size: x}}]", "E_VALUE 51 w.volumes[0].tmpfs.size: 'x' is an invalid size; write it like 64m or 1.5g"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {mode: -1}}]", "E_VALUE 51 w.volumes[0].tmpfs.mode: -1 is not a number from 0 to 4294967295"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {mode: 4294967297}}]", "E_VALUE 51 w.volumes[0].tmpfs.mode: 4294967297 is not a number from 0 to 4294967295"),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {mode: 99999}}]", "E_VALUE 51 w.volumes[0].tmpfs.mode: invalid file mode 99999"),
        ("tmpfs: ''", "E_VALUE 8 w.tmpfs[0] is empty; it must be a path"),
        ("tmpfs: /a:size=x", "E_VALUE 8 w.tmpfs[0]: 'x' is an invalid size; write it like 64m or 1.5g"),
        ("tmpfs: /a:mode=9", "E_VALUE 8 w.tmpfs[0]: invalid file mode '9'"),
        ("tmpfs: /a:huge=1", "E_UNSUPPORTED 8 w.tmpfs[0]: the option 'huge=1' is not supported yet"),
    ],
)  # fmt: skip
def test_faults(body: str, message: str) -> None:
    assert reading.fault(storage, body) == message
