# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false
"""Stands in for `msgspec/json.py` in `ic.pyz`: the coders, and no JSON Schema, which takes 2 ms to load."""

from msgspec import _core

Decoder = _core.JSONDecoder
Encoder = _core.JSONEncoder
decode = _core.json_decode
encode = _core.json_encode
format = _core.json_format
