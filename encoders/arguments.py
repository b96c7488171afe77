"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError: no whole number.
        argparse.ArgumentTypeError: 0 or less.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def not_negative(text: str) -> int:
    """A whole number from 0 to 2^63 - 1, e.g. a seed.

    Raises:
        ValueError: no whole number.
        argparse.ArgumentTypeError: out of range.
    """
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected 0 or more, below 2^63, got {value}")
    return value
