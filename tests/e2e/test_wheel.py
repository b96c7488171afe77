"""The wheel, as the images install it: complete, and importable with no checkout in sight."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for top in sorted({package.partition(".")[0] for package in PACKAGES}):
        shutil.copytree(ROOT / top, source / top, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(ROOT / "native", source / "native")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(out / done.stdout.splitlines()[-1]) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"


def test_every_source_file_is_in_it(wheel):
    ours = {p.relative_to(ROOT) for top in {p.partition(".")[0] for p in PACKAGES} for p in (ROOT / top).rglob("*")}
    wanted = {p for p in ours if p.suffix in {".py", ".css", ".lua", ".typed"} and "__pycache__" not in p.parts}
    missing = {p for p in wanted if not (wheel / p).exists()}
    assert not missing, "list the package or its data in pyproject.toml"
    assert len(wanted) > 50


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler: numpy counts the tiers")
def test_the_tier_kernel_is_in_it_and_is_chosen(wheel):
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); from moontide.native import CHOSEN, library_path as l; print(CHOSEN.name, l())"
    name, path = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    assert name != "numpy" and Path(path).parent == wheel / "moontide"


def test_without_a_compiler_the_wheel_is_built_all_the_same(wheel, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(wheel / "moontide", source / "moontide", ignore=shutil.ignore_patterns("*.so"))
    shutil.copytree(ROOT / "native", source / "native")
    project = (ROOT / "pyproject.toml").read_text()
    extension = project[project.index("[[tool.setuptools.ext-modules]]") : project.index("[tool.pytest.ini_options]")]
    head = '[project]\nname = "moontide"\nversion = "0"\n[tool.setuptools]\npackages = ["moontide"]\n'
    (source / "pyproject.toml").write_text(head + extension)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    environment = {"PATH": str(tmp_path / "empty"), "CC": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as archive:
        names = archive.namelist()
    assert "moontide/native.py" in names and not [n for n in names if n.endswith(".so")]


def test_it_carries_the_licence_and_refuses_to_be_uploaded(wheel):
    (info,) = wheel.glob("moontide-*.dist-info")
    assert "Private :: Do Not Upload" in (info / "METADATA").read_text()
    assert list(info.rglob("LICENSE"))


def test_every_module_can_be_imported_from_it(wheel, tmp_path):
    names = sorted(
        ".".join(p.relative_to(wheel).with_suffix("").parts).removesuffix(".__init__")
        for p in wheel.rglob("*.py")
        if p.name != "__main__.py"
    )
    code = (
        "import importlib, json, sys\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        "origins = {n: importlib.import_module(n).__file__ for n in json.loads(sys.argv[1])}\n"
        "print(json.dumps(origins))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps(names)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    origins = json.loads(done.stdout.splitlines()[-1])
    assert len(origins) > 50
    assert all(Path(origin).is_relative_to(wheel) for origin in origins.values())
