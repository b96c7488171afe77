"""``moontide`` and ``python -m moontide``."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed or a problem found, 2 wrong use)."""
    from moontide.cli.main import main as run

    return run(argv)


if __name__ == "__main__":
    raise SystemExit(main())
