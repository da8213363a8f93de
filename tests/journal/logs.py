"""Hypothesis strategies for journals: sequences of events that some run, or several, could have written."""

from __future__ import annotations

from hypothesis import strategies as st

from ic.journal import events, fold, lines, pages, redact

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12
)
ADDRESSES = st.sampled_from(["instance:web/1", "instance:web/2", "volume:data", "network:default"])
KINDS = st.sampled_from(
    [
        "inst.create",
        "inst.update",
        "inst.delete",
        "inst.start",
        "vol.create",
        "net.update",
        "acl.odd",
    ]
)
PATHS = st.tuples(st.sampled_from(["config", "devices"]), TEXT) | st.tuples(
    st.just("devices"), TEXT, TEXT
)
VALUES = TEXT | st.builds(fold.Digest, st.text("0123456789abcdef", min_size=24, max_size=24))
STATUSES = st.sampled_from(
    ["ok", "ok", "ok", "err", "skip", "undone", "superseded", "unknown", "odd"]
)


@st.composite
def effects(draw: st.DrawFn) -> dict[str, object]:
    """The effect of an intent, as it stands on its line."""
    fields = draw(st.dictionaries(PATHS, VALUES, max_size=3))
    effect = fold.Effect(
        name=draw(TEXT),
        fields={fold.path_text(path): value for path, value in fields.items()},
        unset=tuple(fold.path_text(path) for path in draw(st.lists(PATHS, max_size=2))),
        facts=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        power=draw(st.sampled_from(["", "running", "stopped"])),
        gone=draw(st.booleans()),
    )
    return redact.as_read(effect)


@st.composite
def logs(draw: st.DrawFn, most: int = 30) -> list[events.AnyEvent]:
    """Events numbered from 1 without a gap."""
    log: list[events.AnyEvent] = []
    open_: list[int] = []
    generation = 0
    for n in range(1, draw(st.integers(1, most)) + 1):
        what = draw(
            st.sampled_from(
                ["run", "intent", "intent", "outcome", "outcome", "end", "health", "other"]
            )
        )
        t = draw(st.integers(0, 2**45))
        if what == "run" or n == 1:
            generation += 1
            run = f"{generation:08x}"
            log.append(events.Run(n=n, t=t, run=run, generation=generation, actor=draw(TEXT)))
        elif what == "intent":
            open_.append(n)
            log.append(
                events.Intent(
                    n=n, t=t, kind=draw(KINDS), address=draw(ADDRESSES), effect=draw(effects())
                )
            )
        elif what == "outcome" and open_:
            number = open_.pop(draw(st.integers(0, len(open_) - 1)))
            log.append(
                events.Outcome(
                    n=n,
                    t=t,
                    intent=number,
                    status=draw(STATUSES),
                    result=draw(st.dictionaries(TEXT, TEXT, max_size=1)),
                )
            )
        elif what == "end":
            log.append(events.End(n=n, t=t, run=f"{generation:08x}", status="ok"))
        elif what == "health":
            told = events.Health(n=n, t=t, kind="hd.restart", address=draw(ADDRESSES), stream=n)
            log.append(told)
        else:
            log.append(events.Other(n=n, t=t, kind="odd.kind", address=draw(ADDRESSES)))
    return log


def raw_of(log: list[events.AnyEvent]) -> list[bytes]:
    """Their lines."""
    return [events.encode(event) for event in log]


def config_of(log: list[events.AnyEvent], lineage: str = "0a0b0c0d0e0f") -> dict[str, str]:
    """A project's config that holds a journal of these events, in one plain segment."""
    raw = raw_of(log)
    head = events.Head(
        lineage=lineage, sequence=log[-1].n, chain=lines.end_of(lines.start(lineage), raw)
    )
    return {
        "user.ic.lin": lineage,
        "user.ic.key": "11" * 32,
        "user.ic.head": events.encode_head(head),
        pages.segment_key(1): lines.joined(raw),
        "user.foreign": "stays",
    }
