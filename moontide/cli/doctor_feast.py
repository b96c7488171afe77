"""The check of ``moontide doctor`` that looks into Feast's registry, which it never writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moontide.cli.console import one_line
from moontide.cli.doctor import Finding, Level
from moontide.errors import Misconfigured
from moontide.live import LiveSpaces
from moontide.settings import load_settings

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig


def registry(live: LiveSpaces, repo: Path) -> Iterator[Finding]:
    """Whether the repository reads the store that is written, and `feast apply` was run with the live spaces as they are."""
    from feast.repo_config import load_repo_config

    file = repo / "feature_store.yaml"
    if not file.exists():
        yield Finding(Level.NOTE, "repository", f"none at {repo}; name it with --repo to check what is applied")
        return
    with _readable(f"{file}: expected a Feast configuration", "correct it"):
        config = load_repo_config(repo.resolve(), file.resolve())
    yield _agreement(repo)
    with _readable("registry: expected one that Feast can read", f"correct it in {file}, or run: feast -c {repo} apply"):
        applied, services = _in_registry(config, repo.resolve())
    expected = {view.name for view in live.views()}
    for name in sorted(expected | applied):
        yield _applied(name, name in expected, name in applied, repo)
    for service in live.services:
        yield _applied(f"service {service.name}", True, service.name in services, repo)


def _in_registry(config: RepoConfig, repo: Path) -> tuple[set[str], set[str]]:
    """Names of the feature views and of the services; none where no registry was written yet."""
    from feast import FeatureStore

    if not _is_written(config, repo):
        return set(), set()
    store = FeatureStore(repo_path=str(repo))
    return {view.name for view in store.list_feature_views()}, {service.name for service in store.list_feature_services()}


def _is_written(config: RepoConfig, repo: Path) -> bool:
    """Whether there is a registry to read: Feast writes an empty one where it finds no file."""
    from feast.infra.registry import registry as registries

    found = config.registry
    if found.registry_type != "file":
        return True
    if found.registry_store_type is None:
        kind = registries.get_registry_store_class_from_scheme(found.path)
    else:
        kind = registries.get_registry_store_class_from_type(str(found.registry_store_type))
    try:
        kind(found, repo).get_registry_proto()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _readable(expected: str, advice: str) -> Iterator[None]:
    """What Feast raises within as Misconfigured."""
    import yaml  # type: ignore[import-untyped]
    from feast.errors import FeastError
    from feast.repo_config import FeastConfigError
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        yield
    except (FeastError, FeastConfigError, DecodeError, yaml.YAMLError, FileNotFoundError, ValueError, TypeError) as error:
        raise Misconfigured(f"{expected}, got: {one_line(str(error))}; {advice}") from error


def _agreement(repo: Path) -> Finding:
    from serving.repository import repo_settings

    try:
        read, written = repo_settings(repo).online, load_settings().online
    except Misconfigured as error:
        return Finding(Level.BAD, "online store", one_line(str(error)))
    if read == written:
        return Finding(Level.OK, "online store", f"{read}, the one the jobs write")
    return Finding(Level.NOTE, "online store", f"{read}, but jobs here write {written}: set MOONTIDE_ONLINE={read} for them")


def _applied(name: str, expected: bool, applied: bool, repo: Path) -> Finding:
    if expected and applied:
        return Finding(Level.OK, name, "applied")
    if expected:
        return Finding(Level.BAD, name, f"expected it to be applied, got nothing; run: feast -c {repo} apply")
    return Finding(Level.NOTE, name, "applied, but in no live space (its data is kept)")
