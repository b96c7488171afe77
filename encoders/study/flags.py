"""Flags of ``python -m encoders.study``."""

from __future__ import annotations

import argparse
from pathlib import Path

from encoders.arguments import positive
from encoders.study.ablation import SWITCHES
from encoders.study.recall import DEFAULT_MEASURE


def parser(description: str | None) -> argparse.ArgumentParser:
    """One command a study."""
    made = argparse.ArgumentParser(prog="python -m encoders.study", description=description)
    commands = made.add_subparsers(dest="command", required=True)
    exchange = commands.add_parser("exchange-rate", help="GAUC per point of recall over six or more encoders")
    exchange.add_argument("artifacts", nargs="+", help="PATH, or PATH@DIM for a Matryoshka prefix")
    exchange.add_argument("--data", dest="ranking_data", type=Path, required=True, help="items.csv and transactions.parquet")
    _common(exchange)
    _ranking(exchange)
    scaling = commands.add_parser("scaling", help="recall against pairs, negatives and lengths; power laws")
    scaling.add_argument(
        "--axis", action="append", required=True, help="pairs, queue, batch, history, text, or NAME=KEY:V1,V2,V3; may be repeated"
    )
    scaling.add_argument("--artifact", type=Path, help="what the axes history and text measure")
    scaling.add_argument("--ranking-data", type=Path, help="folder that history and text use; default: the first of --data")
    _training(scaling)
    _common(scaling)
    _ranking(scaling)
    ablation = commands.add_parser("ablation", help="each switch of the recipe flipped")
    ablation.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    ablation.add_argument("--measures", nargs="+", default=[], help="rows of the table; default: all")
    _training(ablation)
    _common(ablation)
    encode = commands.add_parser("encode", help="a catalog's vectors as .npz for ranking.train")
    encode.add_argument("artifact", type=Path)
    encode.add_argument("--data", type=Path, required=True)
    encode.add_argument("--out", type=Path, required=True)
    encode.add_argument("--dim", type=positive, help="a Matryoshka prefix")
    shorten = commands.add_parser("shorten", help="a copy of a folder with texts cut to some words")
    shorten.add_argument("--data", type=Path, required=True)
    shorten.add_argument("--words", type=positive, required=True)
    shorten.add_argument("--out", type=Path, required=True)
    reproduce = commands.add_parser("reproduce", help="an encoder trained again against the shipped one; exit code 1 where worse")
    reproduce.add_argument("artifact", type=Path, help="the one trained again")
    reproduce.add_argument("--shipped", type=Path, required=True, help="the shipped artifact")
    reproduce.add_argument("--spread", type=Path, required=True, help="what `seeds` wrote")
    seeds = commands.add_parser("seeds", help="mean and spread of the figures of artifacts that differ by their seed")
    seeds.add_argument("artifacts", nargs="+", type=Path)
    seeds.add_argument("--out", type=Path, required=True, help="a JSON file")
    return made


def _common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--out", type=Path, required=True, help="folder of results; runs that are done there are not run again")
    made.add_argument("--seeds", type=positive, default=3, help="how many, from 0")
    made.add_argument("--dry-run", action="store_true", help="list the runs and what they would take")
    made.add_argument("--measure", default=DEFAULT_MEASURE, help="'<data set>/<task> <measure>'")
    made.add_argument("--queries", type=positive, help="at most so many queries per task")
    made.add_argument("--plot", choices=("png", "svg"), default="png")


def _ranking(made: argparse.ArgumentParser) -> None:
    made.add_argument("--variant", choices=("new", "all"), default="new", help="items new to the user, or all")
    made.add_argument("--length", type=positive, default=50, help="behaviours of a history")
    made.add_argument("--tiers", type=positive, default=20)
    made.add_argument("--train-impressions", type=positive, help="rows that train the ranker; default: its own")


def _training(made: argparse.ArgumentParser) -> None:
    made.add_argument("--config", default="small")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every run; may be repeated")
    made.add_argument("--data", nargs="+", type=Path, required=True, help="folders to train on")
    made.add_argument("--measure-on", nargs="+", type=Path, help="folders to measure on; default: those of --data")
    made.add_argument("--features-cache", type=Path, help="default: features in --out")
    made.add_argument("--cutoff", help="passed to the trainer: no sale of this day or later is used")
    made.add_argument("--minutes", type=float, default=0.0, help="what one run takes, for the first estimate")
