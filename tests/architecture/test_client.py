"""`moontide.client` in an environment that has the base dependencies and httpx, and nothing else."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.architecture
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What `pip install moontide[client]` brings, with what that needs in turn.
ALLOWED = {
    "numpy", "pyarrow", "pydantic", "pydantic_core", "pydantic_settings", "dotenv", "typing_extensions", "typing_inspection",
    "annotated_types", "httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "moontide",
}  # fmt: skip
CODE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {sorted(ALLOWED)!r} or top in sys.stdlib_module_names or top.startswith("_sysconfigdata"):
            return None
        raise ModuleNotFoundError(f"{{name}} is not in the extra", name=name)

sys.meta_path.insert(0, Blocked())
import moontide.client
import moontide.client.flight
from moontide.client import AsyncClient, Client
Client("http://127.0.0.1:1").close()
AsyncClient("http://127.0.0.1:1")
loaded = {{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
ours = sorted(name for name in sys.modules if name.startswith("moontide"))
print(*ours)
"""


def test_the_extra_is_httpx_alone():
    assert [each.partition(">")[0] for each in PROJECT["optional-dependencies"]["client"]] == ["httpx"]
    assert {each.partition(">")[0] for each in PROJECT["dependencies"]} <= {name.replace("_", "-") for name in ALLOWED}


def test_it_needs_nothing_else_and_loads_floor_0_only(tmp_path):
    done = subprocess.run([sys.executable, "-I", "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = done.stdout.split()
    assert "moontide.client.flight" in modules
    above = [m for m in modules if m.startswith(("moontide.stores", "moontide.features", "moontide.pit", "moontide.cli."))]
    assert not above
