"""Settings from TOML files into dataclasses, with every mistake named."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from moontide.errors import Misconfigured

T = TypeVar("T")


def read_toml(source: str | Path, folder: Path, *, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Read a TOML file, or one of `folder` by its name.

    Args:
        source: a path that ends in ``.toml``, or a name such as ``small``.
        overrides: ``section.key=value`` with a TOML value, e.g. ``switches.experts=false``, ``pretrain.steps=50``, ``seed=3``.

    Returns:
        the file, and its content.

    Raises:
        Misconfigured: no such file, or not TOML.
    """
    path = Path(source) if str(source).endswith(".toml") else folder / f"{source}.toml"
    try:
        body = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        known = sorted(file.stem for file in folder.glob("*.toml"))
        raise Misconfigured(f"config {source}: expected a .toml file or one of {known}, got {type(error).__name__}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"config {path}: expected TOML, got {error}; correct the line") from error
    for override in overrides:
        _apply(body, override)
    return path, body


def _apply(body: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found:
        raise Misconfigured(f"override {override!r}: expected section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = key.strip().split(".")
    for name in sections:
        body = body.setdefault(name, {})
        if not isinstance(body, dict):
            raise Misconfigured(f"override {override!r}: {name} is a value, not a section")
    body[last] = parsed


def build(cls: type[T], body: Mapping[str, Any], where: str = "") -> T:
    """A dataclass, nested ones included.

    Raises:
        Misconfigured: an unknown key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(body) - set(hints))
    if unknown:
        raise Misconfigured(f"config {where or 'file'}: unknown {unknown}; known are {sorted(hints)}")
    values = {key: _value(hints[key], value, f"{where}.{key}".strip(".")) for key, value in body.items()}
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(typing.get_args(hint)[0], part, where) for part in value)
    if origin not in (None, tuple, types.UnionType) and isinstance(value, dict):
        return {str(key): _value(typing.get_args(hint)[1], part, f"{where}.{key}") for key, part in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is hint:
        return value
    raise Misconfigured(f"config {where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
