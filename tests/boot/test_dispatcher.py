"""The stand-in for websocket._dispatcher."""

import re
from pathlib import Path

import websocket

from ic.boot import dispatcher


def test_it_has_what_the_shipped_modules_of_the_library_import() -> None:
    wanted: set[str] = set()
    for file in Path(websocket.__file__).parent.glob("*.py"):
        if file.name != "_app.py":
            lines = re.findall(r"^from \._dispatcher import (.*)$", file.read_text(), re.MULTILINE)
            wanted |= {name.strip() for line in lines for name in line.split(",")}
    assert wanted
    assert wanted <= set(vars(dispatcher))
