"""The stand-in for msgspec.json: the coders of the original."""

import msgspec

from ic.boot import structs_json


def test_the_coders_are_those_of_the_original() -> None:
    for name in ("Decoder", "Encoder", "decode", "encode", "format"):
        assert getattr(structs_json, name) is getattr(msgspec.json, name), name


def test_they_read_what_they_write() -> None:
    assert structs_json.decode(structs_json.encode({"a": [1, None]})) == {"a": [1, None]}
