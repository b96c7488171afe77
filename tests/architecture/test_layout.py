"""What the layout promises, asked of the code itself."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.architecture
ROOT = Path(__file__).parents[2]
PACKAGES = ["moontide", "encoders", "jobs", "ranking", "serving", "streaming"]
FLOOR0 = [
    "changes",
    "embeddings",
    "errors",
    "event_json",
    "event_types",
    "event_write",
    "events",
    "live",
    "names",
    "order",
    "request_log",
    "schemas",
    "sequences",
    "settings",
    "simtier",
    "spaces",
    "standing",
    "views",
]
HEAVY = ["torch", "pyspark", "feast", "kafka", "pymilvus", "lmdb", "redis", "pandas", "onnxruntime"]


def python(code: str, cwd: Path) -> str:
    """Run code in a fresh interpreter that does not see the working directory."""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_resolves_into_this_checkout_asked_from_outside(package, tmp_path):
    found = python(f"import importlib.util as u; print(u.find_spec({package!r}).origin)", tmp_path)
    assert Path(found).is_relative_to(ROOT)


def test_floor_0_imports_nothing_heavy(tmp_path):
    imports = "; ".join(f"import moontide.{name}" for name in FLOOR0)
    loaded = python(f"import sys; {imports}; print([m for m in {HEAVY!r} if m in sys.modules])", tmp_path)
    assert loaded == "[]"


def test_encoder_runtime_imports_no_torch(tmp_path):
    assert python("import sys, encoders; print('torch' in sys.modules)", tmp_path) == "False"


def test_every_floor_0_module_is_held_by_the_linter():
    linter = (ROOT / ".importlinter").read_text()
    modules = {p.stem for p in (ROOT / "moontide").glob("*.py")} - {"__init__", "__main__", "features"}
    missing = {m for m in modules if f"moontide.{m}\n" not in linter}
    assert not missing


@pytest.mark.parametrize("folder", ["jobs", "serving", "streaming", "feature_repo"])
def test_no_module_shadows_the_standard_library_or_a_package(folder):
    stems = {p.stem for p in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    shadowed = stems & set(sys.stdlib_module_names)
    shadowed |= {s for s in stems if importlib.util.find_spec(s) and "site-packages" in str(importlib.util.find_spec(s).origin)}
    assert not shadowed


def constructors():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    yield path, node


def test_constructors_take_at_most_five_arguments():
    too_many = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in constructors()
        if len(node.args.args) + len(node.args.kwonlyargs) > 6
    ]
    assert not too_many


def test_files_stay_readable():
    long = {
        str(p.relative_to(ROOT)): n
        for package in PACKAGES
        for p in (ROOT / package).rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long


def test_only_settings_reads_the_environment():
    offenders = [
        str(p.relative_to(ROOT))
        for package in PACKAGES
        for p in (ROOT / package).rglob("*.py")
        if p != ROOT / "moontide" / "settings.py" and ("os.environ" in p.read_text() or "os.getenv" in p.read_text())
    ]
    assert not offenders
