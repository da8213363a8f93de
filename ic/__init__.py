"""ic: runs compose files on Incus, from one file.

Facts are gathered, plain values decide, then the decision is carried out and written down first.
`docs/architecture.md` has the picture; each package's docstring says what its room is for.
"""

__version__ = "0.1.0"
