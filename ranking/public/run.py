"""A published data set, trained and evaluated with and without SimTier, in one command.

``python -m ranking.public.run taobao-mm --data DIR --out OUT [--users 1] [--seeds 3]``

DIR becomes a training set in ``OUT/data`` (kept for the next run), then `ranking.compare` trains the models and writes
``OUT/compare/table.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from encoders.arguments import positive
from moontide.errors import Misconfigured, MoontideError
from moontide.pit import layout
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from ranking import compare
from ranking.public import microlens, taobao_mm
from ranking.public.convert import Source, convert

SETS: Final[dict[str, tuple[Callable[..., Source], EmbeddingSpace]]] = {
    taobao_mm.NAME: (taobao_mm.source, taobao_mm.SPACE),
    microlens.NAME: (microlens.source, microlens.SPACE),
}


def data_of(arguments: argparse.Namespace) -> Path:
    """The training set in ``OUT/data``, made unless it is there.

    Raises:
        Misconfigured: the published files are missing or malformed, or what is there was made with other arguments or from
            files of other names or sizes, or is no training set.
    """
    make, space = SETS[arguments.set]
    spec = SimTierSpec(space.id, tiers=arguments.tiers, length=arguments.length)
    folder: Path = arguments.out / "data"
    source = make(arguments.data, users=arguments.users, spec=spec)
    wanted = {"source": source.name, "users_percent": arguments.users, "simtier": spec.spec_id, "files": source.said["files"]}
    if (folder / layout.CARD).is_file():
        card = layout.read_card(folder)
        made = {key: card.get(key) for key in wanted}
        if made != wanted:
            raise Misconfigured(f"{folder}: expected a training set of {wanted}, got one of {made}; choose another --out")
        _say(f"{folder}: made before, used again")
        return folder
    _require_free(folder)
    part = folder.with_name("data.part")
    if part.exists():
        shutil.rmtree(part)
    card = convert(source, part, say=_say)
    part.replace(folder)
    _say(shown(card))
    return folder


def _require_free(folder: Path) -> None:
    # Before anything is read: the set is moved here once it is whole, hours later perhaps.
    taken = next((each for each in (folder, *folder.parents) if each.exists() and not each.is_dir()), None)
    if taken is not None:
        raise Misconfigured(f"{taken}: expected a folder or nothing, got a file; choose another --out")
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder}: expected a training set or nothing, got other content; choose another --out")


def shown(card: dict[str, Any]) -> str:
    """The data card in a line."""
    impressions, behaviours = (100 * card["coverage"][name] for name in ("impressions", "behaviours"))
    return (
        f"{card['rows']:,} impressions ({card['positives']:,} positive) of {card['requests']:,} requests, "
        f"{card['items']:,} items; "
        f"with a vector: {impressions:.2f} % of impressions, {behaviours:.2f} % of behaviours"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ranking.public.run", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the published files, as docs/reference/public-data.md"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=_percent, default=1, help="percent of the users, e.g. 1 or 1%% (default 1; 100: all)")
    parser.add_argument("--length", type=positive, default=50, help="L, behaviours of a history (default 50)")
    parser.add_argument("--tiers", type=positive, default=20, help="N, even (default 20)")
    parser.add_argument("--models", nargs="+", default=[], help="of the configuration; default: id and simtier")
    parser.add_argument("--config", default="public", help="a .toml file, or a name of ranking/configs")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--jobs", type=positive, default=2, help="models trained at a time")
    return parser


def _percent(text: str) -> int:
    return positive(text.removesuffix("%"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        folder = data_of(arguments)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    models = ["--models", *arguments.models] if arguments.models else []
    return compare.main(
        [
            "--config", arguments.config, "--data", str(folder), "--out", str(arguments.out / "compare"),
            "--lengths", str(arguments.length), "--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs), *models,
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
