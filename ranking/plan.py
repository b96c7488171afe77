"""Which runs a comparison needs: models x spaces x lengths x seeds, each a command of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from encoders.study.runs import HERE, RESULT, Run, python
from moontide.errors import Misconfigured
from moontide.pit.layout import CARD, read_card
from ranking.config import RankingConfig, load_config

TRAIN: Final = "ranking.train"
#: In place of a vector file: the vectors of the training set itself.
SET: Final = "set"
#: Kind of a point: a row of the table, or training far beyond the best epoch for the curve alone.
ROW, CURVE = "row", "curve"
#: Flags of files whose content is in what a run depends on: how their paths are written decides nothing.
PLACES: Final = frozenset({"--config", "--data", "--vectors", "--cache"})


@dataclass(frozen=True, slots=True)
class Point:
    """One run. `space` is empty where the model reads no vectors, or reads those of the training set."""

    variant: str
    length: int
    model: str
    space: str
    seed: int
    kind: str = ROW

    @property
    def name(self) -> str:
        """Of its folder."""
        space = f"-{self.space}" if self.space else ""
        curve = "" if self.kind == ROW else f"{self.kind}-"
        return f"{curve}{self.variant}-L{self.length}-{self.model}{space}-s{self.seed}"


@dataclass(frozen=True, slots=True)
class TrainingRun(Run):
    """The run of a point. It is done where its result came from these commands, however paths of the same content were written.

    Args:
        again: it is not done, whatever is there.
    """

    again: bool = False

    def done(self, root: Path) -> bool:
        """The result is there, from these commands and inputs."""
        folder = self.folder(root)
        try:
            found = json.loads((folder / "run.json").read_text("utf-8"))
            same = _without_places(found) == _without_places(json.loads(self.described()))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and not self.again and (folder / RESULT).is_file()


def _without_places(described: Mapping[str, Any]) -> Any:
    commands = [
        [part for before, part in zip(["", *command], command, strict=False) if before not in PLACES]
        for command in described["commands"]
    ]
    return commands, described["depends"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is compared.

    Args:
        config: the file, as the command line names it, and `overrides` of its settings.
        data: a training set, or a folder of purchases.
        spaces: vector files by name, None for the training set's own; empty: the training set's own, without a name.
        variants, lengths, models, seeds: empty or None: the configuration's.
        curve_epochs: epochs of the runs that show the curve; 0: no such runs.
    """

    config: str
    data: Path
    spaces: Mapping[str, Path | None]
    overrides: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    seeds: int | None = None
    curve_epochs: int = 0

    def loaded(self) -> RankingConfig:
        """The configuration with its overrides, or `Misconfigured`."""
        return load_config(self.config, overrides=self.overrides)


def points_of(wanted: Wanted, config: RankingConfig) -> list[Point]:
    """Points in the order in which they are run: a comparison that is cut short has all models of some seeds.

    The base comes first. Controls with shuffled vectors are trained with the first space only.

    Raises:
        Misconfigured: a model that the configuration lacks.
    """
    base = config.compare.base
    models = list(dict.fromkeys([base, *(wanted.models or config.compare.models)]))
    made = []
    for variant in wanted.variants or (config.data.variant,):
        for length in wanted.lengths or config.compare.lengths:
            for seed in range(wanted.seeds or config.compare.seeds):
                made += [
                    Point(variant, length, name, space, seed)
                    for name in models for space in _spaces_of(config, name, list(wanted.spaces))
                ]  # fmt: skip
    if wanted.curve_epochs:
        made += _curves(made[0], models, wanted, config)
    return made


def check_set(wanted: Wanted, config: RankingConfig) -> None:
    """A training set has one kind of impressions and histories of one length: what it cannot give is refused.

    Raises:
        Misconfigured: variants of a training set, or histories longer than its own.
    """
    if not (wanted.data / CARD).is_file():
        return
    made, asked = read_card(wanted.data).get("length"), max(wanted.lengths or config.compare.lengths)
    if wanted.variants:
        raise Misconfigured(
            f"--variants: expected none with the training set {wanted.data}, whose impressions are made, got "
            f"{list(wanted.variants)}; leave the flag out, or give a folder of purchases"
        )
    if made is not None and asked > made:
        raise Misconfigured(
            f"--lengths: expected at most {made}, the training set's, got {asked}; give shorter ones, or build the set with "
            f"--length {asked}"
        )


def _spaces_of(config: RankingConfig, name: str, spaces: Sequence[str]) -> Sequence[str]:
    model = config.model(name)
    if not model.reads_vectors or not spaces:
        return ("",)
    return spaces[:1] if model.shuffle else spaces


def _curves(first: Point, models: Sequence[str], wanted: Wanted, config: RankingConfig) -> list[Point]:
    """The base, and the first model that brings MAKE's, under seed 0 at the first variant and length."""
    make = next((name for name in models if "make" in config.model(name).sides), None)
    return [
        Point(first.variant, first.length, name, _spaces_of(config, name, list(wanted.spaces))[0], 0, CURVE)
        for name in (config.compare.base, make) if name is not None
    ]  # fmt: skip


def run_of(point: Point, wanted: Wanted, config: RankingConfig, *, cache: Path, program: str = TRAIN) -> TrainingRun:
    """The command of a point, and all that decides its outcome.

    Raises:
        Misconfigured: data or vectors are not there.
    """
    settings = [*wanted.overrides, f"data.variant={point.variant}"]
    if point.kind == CURVE:
        settings += [f"{part}.{key}={wanted.curve_epochs}" for part in ("fit", "make") for key in ("epochs", "patience")]
    vectors = wanted.spaces[point.space] if point.space else None
    arguments: list[object] = ["--config", wanted.config, *(part for each in settings for part in ("--set", each))]
    arguments += ["--data", wanted.data, "--model", point.model, "--length", point.length, "--seed", point.seed]
    arguments += [*(("--vectors", vectors) if vectors else ()), "--cache", cache, "--threads", 1]
    depends = {
        "config": config.digest(asdict(config.model(point.model))),
        "data": data_digest(wanted.data),
        "vectors": None if vectors is None else _digest([vectors]),
    }
    return TrainingRun(point.name, (python(program, *arguments, "--json", f"{HERE}/{RESULT}"),), depends)


def data_digest(folder: Path) -> str:
    """16 hex digits over a training set's card, or over the files of a folder of purchases.

    Raises:
        Misconfigured: no such folder, or an empty one.
    """
    card = folder / CARD
    files = [card] if card.is_file() else sorted(path for path in folder.glob("*") if path.is_file())
    if not files:
        raise Misconfigured(f"--data {folder}: expected a training set or a folder of purchases, got no file")
    return _digest(files)


def _digest(files: Sequence[Path]) -> str:
    state = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as content:
                state.update(path.name.encode() + hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise Misconfigured(f"{path}: expected a file that can be read; {error}") from error
    return state.hexdigest()[:16]
