"""Options that several commands share, so that they read alike and mean the same. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_lock_timeout(parser: argparse.ArgumentParser) -> None:
    """`--lock-timeout SECONDS`, of every command that takes the lease."""
    parser.add_argument(
        "--lock-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait while another ic works on the stack (default: 10; 0: not at all)",
    )
