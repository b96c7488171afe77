"""``python -m streaming``: the nearline consumer."""

from __future__ import annotations

import os

# Before numpy: its threads would fight with the worker, the settler and the encoder for the cores, over products of microseconds.
os.putenv("OPENBLAS_NUM_THREADS", "1")

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

from kafka.errors import KafkaError

from moontide.errors import MoontideError
from moontide.live import LiveSpaces, load_spaces
from moontide.logs import configure
from moontide.settings import load_settings
from streaming.app import TOPICS, App
from streaming.patience import GivenUp

_EPILOG = (
    "exit codes: 0 stopped by SIGTERM or SIGINT; 1 failed; 2 wrong use. "
    "Everything else comes from the environment (MOONTIDE_KAFKA_*, MOONTIDE_STREAM_*; see docs/reference/settings.md)."
)
#: LMDB and pipes let other threads run at each call, and Python's 5 ms until it may go on are longer than the call.
_SWITCH_SECONDS: Final = 0.001
_log = logging.getLogger("streaming")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer; returns the exit code. Expected failures are one line, never a traceback."""
    args = _parser().parse_args(argv)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        settings = load_settings(**({"stream_group": args.group} if args.group else {}))
        configure(sys.stderr, settings=settings, level=args.log_level)
        live = _chosen(load_spaces(settings.spaces_path), args.space)
        return App(settings, live, topics=args.topic or TOPICS).run()
    except (MoontideError, KafkaError) as error:
        sys.stderr.write(f"streaming: {' '.join(str(error).split())}\n")
        return 1
    except GivenUp:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streaming", description="The nearline consumer.", epilog=_EPILOG)
    parser.add_argument("--group", help="consumer group (default: MOONTIDE_STREAM_GROUP); a new one starts at the oldest event")
    parser.add_argument("--space", action="append", metavar="SPACE", help="write only this live space; may be repeated")
    parser.add_argument("--topic", action="append", choices=TOPICS, help="consume only this topic; may be repeated")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _chosen(live: LiveSpaces, ids: Sequence[str] | None) -> LiveSpaces:
    """`live`, cut to the named spaces and what is computed in them."""
    if not ids:
        return live
    spaces = tuple(live.live(space_id) for space_id in ids)
    simtiers = tuple(s for s in live.simtiers if s.space_id in ids)
    return LiveSpaces(live.path, spaces, simtiers, tuple(s for s in live.services if s.space.id in ids))


if __name__ == "__main__":
    raise SystemExit(main())
