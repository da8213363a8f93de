"""The stand-in for msgspec's package: the same names as the original's, its parts when they are named."""

import json
import subprocess

import msgspec
import pytest

from ic.boot import structs

PARTS = ("inspect", "json", "msgpack", "structs", "toml", "yaml")


def test_every_public_name_of_the_original_is_there_and_the_same() -> None:
    names = [name for name in vars(msgspec) if name[0] != "_" and name not in (*PARTS, "field")]
    assert "Struct" in names
    assert {name for name in names if getattr(structs, name) is not getattr(msgspec, name)} == set()
    assert structs.__getattr__("__version__") == msgspec.__version__


@pytest.mark.parametrize("part", PARTS)
def test_a_part_comes_when_it_is_named(part: str) -> None:
    assert getattr(structs, part) is getattr(msgspec, part)


def test_what_the_original_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="msgspec has no nothing"):
        structs.__getattr__("nothing")


def test_a_field_is_that_of_the_original() -> None:
    made = structs.field(default=3, name="three")
    plain = msgspec.field(default=3, name="three")
    assert type(made) is type(plain)
    made_of = msgspec.defstruct("Made", [("it", int, made)])
    assert msgspec.to_builtins(made_of()) == {"three": 3}


def test_the_zipapp_loads_no_part_that_nobody_named(probe_pyz: str, tmp_path: object) -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-X", "importtime", probe_pyz, "msgspec", "msgspec.json"],
        env={"PATH": "/usr/bin:/bin", "IC_CACHE_DIR": f"{tmp_path}/cache"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    files = json.loads(done.stdout)["files"]
    assert files["msgspec.json"].endswith("/msgspec/json.py")
    assert {"msgspec._core", "msgspec.json"} <= loaded
    assert loaded.isdisjoint({"msgspec.inspect", "msgspec.msgpack", "msgspec.toml", "textwrap"})
