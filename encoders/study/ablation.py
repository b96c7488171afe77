"""What each switch of the recipe buys: the config with one switch flipped, against the config as it is, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from encoders.config import Switches, load_config
from encoders.study.programs import Programs, Training
from encoders.study.recall import measures_of
from encoders.study.runs import Run
from encoders.study.tables import Effect, Measures, effects, markdown, number, span
from moontide.errors import Misconfigured

BASE: Final = "base"
SWITCHES: Final = tuple(field.name for field in fields(Switches))

Plan = dict[str, dict[int, Run]]


def plan(training: Training, seeds: Sequence[int], switches: Sequence[str], programs: Programs) -> Plan:
    """Runs by variant (``base`` first, then each switch) and seed.

    Raises:
        Misconfigured: an unknown switch, or a config that cannot be read.
    """
    unknown = sorted(set(switches) - set(SWITCHES))
    if unknown:
        raise Misconfigured(f"--switches: expected some of {list(SWITCHES)}, got {unknown}")
    config = load_config(training.config, overrides=training.settings)
    variants: dict[str, list[str]] = {BASE: []}
    for name in switches:
        flipped = "false" if getattr(config.switches, name) else "true"
        variants[name] = [f"switches.{name}={flipped}"]
    return {
        variant: {seed: training.run(f"{variant}-{seed}", programs, settings=[*settings, f"seed={seed}"]) for seed in seeds}
        for variant, settings in variants.items()
    }


def collect(made: Plan, root: Path) -> dict[str, dict[int, Measures]]:
    """Measures by variant and seed, of runs that are done."""
    return {
        variant: {seed: measures_of(run.result(root)) for seed, run in runs.items() if run.done(root)}
        for variant, runs in made.items()
    }


def summary(found: Mapping[str, Mapping[int, Measures]], switched_on: Mapping[str, bool]) -> dict[str, Any]:
    """The study as JSON: per variant and measure its `Effect`, in points."""
    base = found[BASE]
    return {
        "format_version": 1,
        "unit": "points (hundredths); difference = flipped less base, paired by seed",
        "runs": {variant: {str(seed): dict(run) for seed, run in runs.items()} for variant, runs in found.items()},
        "switches_in_base": dict(switched_on),
        "effects": {
            variant: {name: _plain(effect) for name, effect in effects(base, runs).items()} for variant, runs in found.items()
        },
    }


def table(found: Mapping[str, Mapping[int, Measures]], switched_on: Mapping[str, bool], measures: Sequence[str]) -> str:
    """Markdown: one table a measure; intervals without zero are bold."""
    base = found[BASE]
    parts = []
    for name in measures or sorted({name for run in base.values() for name in run}):
        rows = [
            _row(_title(variant, switched_on), effects(base, runs).get(name), plain=variant == BASE)
            for variant, runs in found.items()
        ]
        header = ["variant", "mean", "spread", "flipped less base", "95 %", "seeds"]
        parts.append(f"### {name}\n\n" + markdown(header, rows))
    return "\n".join(parts)


def _title(variant: str, switched_on: Mapping[str, bool]) -> str:
    return variant if variant == BASE else f"{variant} {'off' if switched_on[variant] else 'on'}"


def _row(title: str, effect: Effect | None, *, plain: bool) -> list[str]:
    if effect is None:
        return [title, "-", "-", "-", "-", "0"]
    common = [title, number(effect.mean), number(effect.spread)]
    if plain:
        return [*common, "", "", str(effect.seeds)]
    shown = number(effect.difference, sign=True)
    return [*common, f"**{shown}**" if effect.clear else shown, span(effect.low, effect.high), str(effect.seeds)]


def _plain(effect: Effect) -> dict[str, Any]:
    return {name: value if np.isfinite(value) else None for name, value in asdict(effect).items()}
