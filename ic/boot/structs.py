# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false
"""Stands in for `msgspec/__init__.py` in `ic.pyz`: the same names, the parts that few need when they come.

The original loads all of its formats and its introspection, and with them textwrap and a dozen patterns:
3 ms of every start, for what ic does not use.
"""

from __future__ import annotations

from msgspec import _core

NODEFAULT = _core.NODEFAULT
UNSET = _core.UNSET
DecodeError = _core.DecodeError
EncodeError = _core.EncodeError
Meta = _core.Meta
MsgspecError = _core.MsgspecError
Raw = _core.Raw
Struct = _core.Struct
StructMeta = _core.StructMeta
UnsetType = _core.UnsetType
ValidationError = _core.ValidationError
convert = _core.convert
defstruct = _core.defstruct
to_builtins = _core.to_builtins
_PARTS = ("inspect", "json", "msgpack", "structs", "toml", "yaml")


def field(
    *,
    default: object = NODEFAULT,
    default_factory: object = NODEFAULT,
    name: str | None = None,
) -> object:
    """What a struct's attribute is when it is not given."""
    return _core.Field(default=default, default_factory=default_factory, name=name)


def __getattr__(name: str) -> object:
    """A part of msgspec when it is first named; AttributeError for what it has not."""
    if name in _PARTS:
        import importlib

        return importlib.import_module("msgspec." + name)
    if name == "__version__":
        from msgspec import _version

        return _version.__version__
    raise AttributeError(f"msgspec has no {name}")
