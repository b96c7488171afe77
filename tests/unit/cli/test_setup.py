"""The Makefile and what it installs."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def pins(name):
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "lock" / name).read_text(), re.M))


def test_the_development_set_contains_the_runtime_set_with_the_same_versions():
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert runtime.items() <= dev.items()


def test_the_runtime_set_has_no_torch():
    assert "torch" not in pins("runtime.txt")


def test_locked_versions_name_no_index_and_every_one_has_a_hash():
    for file in (ROOT / "lock").glob("*.txt"):
        text = file.read_text()
        assert "://" not in text
        blocks = re.split(r"^(?=[a-z])", text, flags=re.M)
        assert all("--hash=sha256:" in block for block in blocks if block.strip())


def test_exact_requirements_are_locked_as_they_are_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    exact = {m[1]: m[2] for r in sum(extras.values(), []) if (m := re.match(r"([a-z-]+)(?:\[.*\])?==(.+)$", r))}
    assert exact
    assert exact.items() <= pins("dev.txt").items()


def test_make_test_runs_every_folder_of_tests():
    listed = re.search(r"^LEVELS :=.*,(.*?)\)\)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    present = {p.relative_to(ROOT / "tests").parts[0] for p in (ROOT / "tests").rglob("test_*.py")}
    assert present - {"feast_suite"} <= set(listed)


def test_continuous_integration_runs_the_command_of_the_readme():
    assert re.search(r"^exec make test$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert "make test" in (ROOT / "README.md").read_text()


def test_shell_scripts_parse():
    for script in (ROOT / "scripts" / "setup.sh", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o100
        assert "set -euo pipefail" in script.read_text()
