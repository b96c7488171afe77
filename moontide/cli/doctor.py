"""``moontide doctor``: what is installed, reachable, applied, and how full."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from moontide import __version__
from moontide.cli.console import one_line, say, table
from moontide.errors import MoontideError
from moontide.live import LiveSpaces, load_spaces
from moontide.native import CHOSEN
from moontide.settings import Settings

_PACKAGES = {
    "numpy": "", "pyarrow": "", "pydantic": "", "feast": "serve", "lmdb": "serve", "redis": "serve", "pymilvus": "serve",
    "milvus-lite": "serve", "duckdb": "serve", "onnxruntime": "encode", "pillow": "encode", "pyspark": "spark", "torch": "train",
}  # fmt: skip
_JAVA_MIN = 17


class Level(StrEnum):
    """How a finding is meant: fine, worth knowing, or a problem that makes the exit code 1."""

    OK = "ok"
    NOTE = "note"
    BAD = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `ended`: an error, and the end of its check."""

    level: Level
    name: str
    detail: str
    ended: bool = False


Check = Callable[[], Iterator[Finding]]


def doctor(settings: Settings, repo: Path) -> int:
    """Print every finding by section; 1 where one of them is a problem."""
    from moontide.cli.doctor_feast import registry
    from moontide.cli.doctor_stores import coverage, index, offline, online

    say(f"moontide {__version__}")
    live: list[LiveSpaces] = []
    failed: set[str] = set()
    sections: dict[str, Check] = {
        "software": software,
        "settings": lambda: shown(settings),
        "live spaces": lambda: spaces(settings, live),
    }
    bad = _print(sections, failed)
    if live:
        bad += _print(
            {
                "online store": lambda: online(settings, live[0]),
                "offline tables": lambda: offline(settings, live[0]),
                "index": lambda: index(settings, live[0]),
                "Feast registry": lambda: registry(live[0], repo),
                "coverage": lambda: coverage(settings, live[0], failed),
            },
            failed,
        )
    say(f"\n{bad} problem{'' if bad == 1 else 's'} found" if bad else "\nno problem found")
    return 1 if bad else 0


def _print(sections: Mapping[str, Check], failed: set[str]) -> int:
    """How many problems there are; titles of the checks that an error ended are added to `failed`."""
    bad = 0
    for title, check in sections.items():
        found = guarded(check)
        bad += sum(f.level is Level.BAD for f in found)
        if any(f.ended for f in found):
            failed.add(title)
        say(f"\n{title}")
        for line in table([[f.level.value, f.name, f.detail] for f in found]):
            say("  " + line)
    return bad


def guarded(check: Check) -> list[Finding]:
    """The findings of a check; an expected failure is a finding too."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (MoontideError, OSError, ImportError) as error:
        found.append(Finding(Level.BAD, type(error).__name__, one_line(str(error)), ended=True))
    return found


def software() -> Iterator[Finding]:
    """Versions; a package of an optional process is only noted where it is missing."""
    yield Finding(Level.OK, "python", platform.python_version())
    for name, extra in _PACKAGES.items():
        try:
            yield Finding(Level.OK, name, version(name))
        except PackageNotFoundError:
            yield Finding(Level.NOTE, name, f"not installed; pip install 'moontide[{extra}]' where it is needed")
    yield kernel()
    yield java()


def kernel() -> Finding:
    """What counts SimTier tiers here."""
    return Finding(
        Level.NOTE if CHOSEN.why else Level.OK, "tier kernel", ": ".join(filter(None, (CHOSEN.name, one_line(CHOSEN.why))))
    )


def java() -> Finding:
    """Java, which Spark needs."""
    try:
        said = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except OSError:
        return Finding(Level.NOTE, "java", f"not found; the batch jobs need Java {_JAVA_MIN} or later")
    found = re.search(r'version "(\d+)([^"]*)"', said)
    if not found or int(found[1]) < _JAVA_MIN:
        return Finding(Level.NOTE, "java", f"expected {_JAVA_MIN} or later, got {found[0] if found else 'another'}")
    return Finding(Level.OK, "java", found[1] + found[2])


def shown(settings: Settings) -> Iterator[Finding]:
    """The settings in force; secrets as set or not set, URLs without user and password."""
    derived = {"spaces_file": settings.spaces_path, "offline": settings.offline_root, "index_uri": settings.milvus_uri}
    for name in type(settings).model_fields:
        yield Finding(Level.OK, f"MOONTIDE_{name.upper()}", _plain(derived.get(name, getattr(settings, name))))


def _plain(value: object) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if "://" in text:
        return _address(text)
    if isinstance(value, SecretStr):
        return "set" if text else "not set"
    return "none" if value in (None, ()) else text


def _address(url: str) -> str:
    """Scheme, host, port and path: no user, no password, and no query, which may hold a key."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{'***@' if '@' in parts.netloc else ''}{host}{parts.path}{'?***' if parts.query else ''}"


def spaces(settings: Settings, loaded: list[LiveSpaces]) -> Iterator[Finding]:
    """Every live space with its artifact, every SimTier spec, every service; the file's content is appended to `loaded`."""
    live = load_spaces(settings.spaces_path)
    loaded.append(live)
    yield Finding(Level.OK, "file", str(live.path))
    for entry in live.spaces:
        space = entry.space
        yield _artifact(live, space.id)
    for spec in live.simtiers:
        yield Finding(Level.OK, spec.spec_id, f"{spec.tiers} tiers, last {spec.length} behaviours, {spec.self_match}")
    for service in live.services:
        fields = ", ".join(service.item_fields) or "no item fields"
        yield Finding(Level.OK, service.name, f"service on {service.space.id}, {service.simtier.spec_id}, {fields}")


def _artifact(live: LiveSpaces, space_id: str) -> Finding:
    entry = live.live(space_id)
    described = f"dim {entry.space.dim}, {entry.space.encoder_digest[:19] or 'no digest'}"
    if entry.artifact is None:
        return Finding(Level.NOTE, space_id, f"{described}; no artifact: nothing here can encode into it")
    from encoders.kinds import load_any

    made = load_any(entry.artifact).manifest.space
    if made != entry.space:
        return Finding(
            Level.BAD,
            space_id,
            f"expected the encoder {entry.space.encoder_digest[:19]}, got {made.id} {made.encoder_digest[:19]} "
            f"in {entry.artifact}; correct {live.path.name} or copy the artifact it means",
        )
    return Finding(Level.OK, space_id, f"{described}, artifact {entry.artifact}")
