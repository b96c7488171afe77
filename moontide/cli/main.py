"""Arguments, dispatch, and errors as one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from moontide import __version__
from moontide.cli.console import complain, one_line
from moontide.errors import MoontideError
from moontide.settings import load_settings

_EPILOG = (
    "exit codes: 0 done; 1 failed, or doctor found a problem; 2 wrong use. "
    "Stores and folders come from the environment (MOONTIDE_HOME, ...; see docs/reference/settings.md)."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Expected failures are one line on stderr, never a traceback."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except MoontideError as error:
        complain(f"moontide: {one_line(str(error))}")
        return 1
    except ImportError as error:
        complain(f"moontide: expected the package, got: {one_line(str(error))}; pip install 'moontide[spark]', or make setup")
        return 1
    except KeyboardInterrupt:
        complain("moontide: interrupted")
        return 1
    except BrokenPipeError:
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moontide", description="Item embeddings and similarity tiers for ranking.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"moontide {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands)
    _add_similar(commands)
    _add_features(commands)
    _add_produce(commands)
    _add_replay(commands)
    _add_demo(commands)
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("doctor", help="what is installed, reachable, applied, and how full", epilog=_EPILOG)
    _add_repo(made)
    made.set_defaults(run=_doctor)


def _add_similar(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("similar", help="an item's nearest neighbours in the index", epilog=_EPILOG)
    made.add_argument("item_id", metavar="ITEM_ID")
    made.add_argument("-k", type=_hits, default=10, metavar="K", help="how many (default: 10)")
    made.add_argument("--space", metavar="SPACE", help="space id (default: the one the index alias points at)")
    made.add_argument("--catalog", type=Path, metavar="FILE", help="catalog Parquet to show titles from")
    made.set_defaults(run=_similar)


def _add_features(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("features", help="what a ranking model reads for a user and candidates", epilog=_EPILOG)
    made.add_argument("user_id", metavar="USER_ID")
    made.add_argument("item_ids", metavar="ITEM_ID", nargs="+")
    made.add_argument("--service", default="ctr_v1", help="feature service (default: ctr_v1)")
    made.add_argument("--json", action="store_true", help="one JSON object per candidate, vector included")
    _add_repo(made)
    made.set_defaults(run=_features)


def _add_produce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("produce", help="send a file of events to Kafka", epilog=_EPILOG)
    made.add_argument("file", type=Path, metavar="FILE", help="JSON Lines of events or wrapped records; - is standard input")
    made.add_argument("--topic", type=_topic, metavar="TOPIC", help="where events go (default: by their fields)")
    made.add_argument("--rate", type=_rate, metavar="N", help="records per second (default: as fast as it goes)")
    made.add_argument("--unchecked", action="store_true", help="send events that the consumer would refuse, too")
    made.set_defaults(run=_produce)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("replay-dlq", help="send dead letters again to the topics they came from", epilog=_EPILOG)
    made.add_argument("--reason", type=_word, metavar="REASON", help="only those refused for it; it keeps a position of its own")
    made.add_argument("--limit", type=_count, metavar="N", help="send at most N")
    made.add_argument("--dry-run", action="store_true", help="count, but send and commit nothing")
    made.add_argument(
        "--group",
        type=_word,
        metavar="GROUP",
        help="consumer group that keeps the position, -REASON behind it where one is given (default: moontide-replay)",
    )
    made.set_defaults(run=_replay)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    made = commands.add_parser("demo", help="the main job on the example data, and a report", epilog=_EPILOG)
    made.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="default: build/demo; made anew")
    made.add_argument("--checkout", type=Path, default=Path(), metavar="DIR", help="root of the repository (default: .)")
    made.set_defaults(run=_demo)


def _add_repo(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), metavar="DIR", help="Feast feature repository (default: feature_repo)"
    )


def _hits(text: str) -> int:
    from moontide.stores.index_rules import MAX_HITS

    # One more is asked for: the item itself is its own nearest neighbour.
    value, limit = int(text), MAX_HITS - 1
    if not 1 <= value <= limit:
        raise argparse.ArgumentTypeError(f"expected 1 to {limit}, got {value}")
    return value


def _topic(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text) is None:
        raise argparse.ArgumentTypeError("expected 1 to 249 characters of [A-Za-z0-9._-]")
    return text


def _word(text: str) -> str:
    # An unset variable of a shell arrives as this.
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name, got nothing; leave the option out, or set the variable it came from")
    return text


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _doctor(args: argparse.Namespace) -> int:
    from moontide.cli.doctor import doctor

    return doctor(load_settings(), args.repo)


def _similar(args: argparse.Namespace) -> int:
    from moontide.cli.lookup import similar

    return similar(load_settings(), args.item_id, k=args.k, space_id=args.space, catalog=args.catalog)


def _features(args: argparse.Namespace) -> int:
    from moontide.cli.lookup import features

    load_settings()
    return features(args.repo, args.user_id, args.item_ids, service=args.service, as_json=args.json)


def _produce(args: argparse.Namespace) -> int:
    from moontide.cli.produce import produce

    return produce(load_settings(), args.file, topic=args.topic, rate=args.rate, checked=not args.unchecked)


def _replay(args: argparse.Namespace) -> int:
    from moontide.cli.replay import replay

    return replay(load_settings(), reason=args.reason, limit=args.limit, dry_run=args.dry_run, group=args.group)


def _demo(args: argparse.Namespace) -> int:
    from moontide.cli.demo import demo

    return demo(args.checkout.resolve(), args.out.resolve())
