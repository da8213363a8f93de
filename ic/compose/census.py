"""How many values a text surely has, told without reading it as YAML.

Pure: the bytes of a file and a limit in; out comes a number that is never too high. What this cannot tell is
counted by whoever reads the text. It exists so that refusing a hostile file costs a fraction of reading it,
in time and in memory: what it looks for are lines that are entries, and commas of flow collections, after
block scalars, quoted texts and comments are taken out. Wherever those may be out of step it looks no
further, so that it counts too little and never too much.
"""

from __future__ import annotations

import itertools
import operator
import re

# What ends a line in YAML and is no newline: texts that have it are not looked at.
_OTHER_ENDS = (b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
# What a pattern begins with stands before what must precede it: it is looked for first, and quickly.
_BLOCK_SCALAR = rb"[|>](?<![^\s:-].)[-+0-9]{0,2}[ \t]*(?:#[^\n]*)?\n"
_QUOTED_OR_COMMENT = (
    rb"\"(?<![^\s\[{,:].)[^\"\\]*(?:\\[\s\S][^\"\\]*){0,2000}\"(?=[\s,\]}:]|\Z)"
    rb"|'(?<![^\s\[{,:].)[^']*(?:''[^']*){0,2000}'(?=[\s,\]}:]|\Z)"
    rb"|#(?<!\S.)[^\n]*"
)
_NO_PAIR = rb"[^\s\[{,:]\0|\0(?![\s,\]}:]|\Z)"
_LEFT_OVER = rb"[\"'#](?<![^\s\[{,:].)"
_KEY = rb"[^\s\[\]{},#&*!|>%@`?:-][^\n:]*"
_ENTRY = rb"(?m)^(?:---(?: |$)| *(?:- |-$|\? |" + _KEY + rb":(?:[ \t]|$)))"
# A dash that is deeper than a line of text before it may go on with that text.
_DEEPER_DASH = rb"(?m)^( *)[^ \n][^\n]*[^\s:?-] *\n(?: *\n)*\1 +- "
_FLOW = rb"(?m)^ *((?:- +)*(?:" + _KEY + rb": +)?)(?:[&!][^\s,\[\]{}]* +)*([\[{])[^\n]*"
# A line that is an entry and complete by itself, whatever stands around it.
_TEXTS = rb"\"[^\"\\\n]*\"|'[^'\n]*'|[A-Za-z0-9_./$~][^\s:#,\[\]{}'\"]*"
_LINE = (
    rb"(?m)^ *(?:(?:- +)*(?:" + _TEXTS + rb"):(?: +(?:" + _TEXTS + rb"))?"
    rb"|(?:- +)+(?:" + _TEXTS + rb")) *$()"
)
_SYMBOLS = b"[]{},"
_REST = bytes(one for one in range(256) if one not in _SYMBOLS)
_DEPTHS = {one: {ord("["): 1, ord("{"): 1, ord(","): 0}.get(one, -1) for one in _SYMBOLS}
_MOST_SCALARS = 20_000
_BATCH = 20_000
_CHUNK = 2**17
_MOST_WALKS = 8  # through flow collections of several lines


def is_beyond(content: bytes, limit: int) -> bool:
    """Whether a text has more than `limit` values for sure."""
    return most(content) > limit and at_least(content, limit) > limit


def most(content: bytes) -> int:
    """About how many values a text may have, whatever it is; at once."""
    return content.count(b"\n") + content.count(b",")


def at_least(content: bytes, limit: int) -> int:
    """How many values a text has for sure; beyond `limit` it counts no further."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    if any(one in content for one in _OTHER_ENDS):
        return 0
    lines = _of_lines(content, limit)
    if lines:
        return lines
    bare = _without_quoted(_without_block_scalars(content), limit)
    bare, commas = _without_flows(bare, limit)
    if commas > limit:
        return commas
    found = [one.end() for one in itertools.islice(re.finditer(_ENTRY, bare), limit - commas + 1)]
    if not found or (b" - " in bare and re.search(_DEEPER_DASH, bare[: found[-1]])):
        return commas
    return commas + len(found)


def _of_lines(content: bytes, limit: int) -> int:
    """How many lines are entries, where all looked at are; 0 where the text has to be taken apart."""
    count = at = 0
    lines = re.compile(_LINE)
    while count <= limit and at < len(content):
        end = content.rfind(b"\n", at, at + _CHUNK) + 1 or len(content)
        chunk = content[at:end]
        found = len(lines.findall(chunk))
        if found != chunk.count(b"\n") + (not chunk.endswith(b"\n")):
            return 0
        if b" - " in chunk and re.search(_DEEPER_DASH, content[max(at - _CHUNK, 0) : end]):
            return 0
        count += found
        at = end
    return count


def _without_block_scalars(content: bytes) -> bytes:
    """The text without what follows `|` and `>`; all that is deeper than their line counts as theirs."""
    search = re.compile(_BLOCK_SCALAR).search
    pieces: list[bytes] = []
    at = 0
    for _ in range(_MOST_SCALARS):
        found = search(content, at)
        if found is None:
            pieces.append(content[at:])
            break
        start = content.rfind(b"\n", 0, found.start()) + 1
        line = content[start : found.start()]
        indent = len(line) - len(line.lstrip(b" "))
        pieces.append(content[at : found.start()] + b"\n")
        after = re.compile(rb"(?m)^ {0,%d}[^ \n]" % indent).search(content, found.end())
        if after is None:
            break
        at = after.start()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _without_quoted(content: bytes, limit: int) -> bytes:
    """The text without comments, `q` for every quoted text, up to where a quote stands that has no other."""
    if b'"' not in content and b"'" not in content and b"#" not in content:
        return content
    if b"\\" not in content and b"#" not in content and b"\0" not in content:
        for quote, other in ((b'"', b"'"), (b"'", b'"')):
            if other not in content:
                bare = _between(content, quote, limit)
                if not re.search(_NO_PAIR, bare):
                    return bare.replace(b"\0", b"q")
    found = re.finditer(_QUOTED_OR_COMMENT, content)
    pieces: list[bytes] = []
    at = room = 0
    while room <= 2 * limit:
        batch = [one.span() for one in itertools.islice(found, _BATCH)]
        starts = [at, *(end for _, end in batch)]
        ends = [start for start, _ in batch]
        if len(batch) < _BATCH:
            ends.append(len(content))
        at = starts[-1]
        piece = b"q".join(map(content.__getitem__, map(slice, starts, ends)))
        pieces.append(piece)
        if len(batch) < _BATCH:
            break
        pieces.append(b"q")
        room += piece.count(b"\n") + piece.count(b",")
    bare = b"".join(pieces)
    odd = re.search(_LEFT_OVER, bare)
    return bare if odd is None else bare[: odd.start()]


def _between(content: bytes, quote: bytes, limit: int) -> bytes:
    """What stands between texts in one kind of quotes, a NUL for each of these; the beginning is enough."""
    pieces: list[bytes] = []
    for _ in range(5 * limit // _BATCH + 1):
        parts = content.split(quote, _BATCH)
        pieces.append(b"\0".join(parts[:_BATCH:2]))
        if len(parts) <= _BATCH:
            break
        content = parts[_BATCH]
    return b"\0".join(pieces)


def _without_flows(bare: bytes, limit: int) -> tuple[bytes, int]:
    """The text without its flow collections of several lines; the commas in these and others."""
    if b"[" not in bare and b"{" not in bare:
        return bare, 0
    search = re.compile(_FLOW).search
    pieces: list[bytes] = []
    done = at = commas = entries = walks = 0  # up to `done` stands in the pieces
    while commas + entries <= limit and (found := search(bare, at)) is not None:
        line = found[0]
        at = found.end()
        commas += line.count(b",")
        entries += found.end(1) > found.start(1)
        if line.count(b"[") + line.count(b"{") <= line.count(b"]") + line.count(b"}"):
            continue
        walks += 1
        pieces.append(bare[done : found.start()])
        if walks > _MOST_WALKS:
            return b"".join(pieces), commas
        symbols = bare[found.start(2) :].translate(None, _REST)[: 4 * limit]
        commas -= line.count(b",")
        try:
            last = operator.indexOf(itertools.accumulate(map(_DEPTHS.__getitem__, symbols)), 0)
        except ValueError:  # it is never closed, or beyond what is looked at
            return b"".join(pieces), commas + symbols.count(b",")
        inside = symbols[: last + 1]
        commas += inside.count(b",")
        closers = inside.count(b"]") + inside.count(b"}")
        ends = re.compile(rb"[\]}]").finditer(bare, found.start(2))
        done = at = next(itertools.islice(ends, closers - 1, None)).end()
    if commas + entries > limit:
        return b"", limit + 1
    pieces.append(bare[done:])
    return b"".join(pieces), commas
