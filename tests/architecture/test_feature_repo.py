"""What Feast finds in `feature_repo/`, asked of Feast itself, and what that folder may import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from moontide.live import load_spaces
from moontide.stores.feast_values import codec_of

pytestmark = pytest.mark.architecture
ROOT = Path(__file__).parents[2]
REPO = ROOT / "feature_repo"
PARSE = """
import json, os, sys
from pathlib import Path
repo = Path(sys.argv[1])
os.chdir(repo)
sys.path.append(str(repo))
from feast.repo_operations import parse_repo
found = parse_repo(repo)
print(json.dumps({
    "views": {
        v.name: {
            "keys": [(c.name, str(c.dtype)) for c in v.entity_columns],
            "features": [(f.name, str(f.dtype)) for f in v.features],
            "dims": {f.name: f.vector_length for f in v.features if f.vector_length},
            "ttl": v.ttl.total_seconds() if v.ttl else 0,
            "times": [v.batch_source.timestamp_field, v.batch_source.created_timestamp_column],
            "push": v.stream_source.name,
        }
        for v in found.feature_views
    },
    "entities": {e.name: e.join_key for e in found.entities if not e.name.startswith("__")},
    "services": {s.name: [[p.name, [f.name for f in p.features]] for p in s.feature_view_projections] for s in found.feature_services},
}))
"""


def modules():
    return sorted(p for p in REPO.rglob("*.py") if "__pycache__" not in p.parts)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else node.module.split(".")[0]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "MOONTIDE_HOME": str(home / "site")}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(REPO)], capture_output=True, text=True, timeout=180, env=environment, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def live():
    return load_spaces(REPO / "spaces.toml")


def test_feast_registers_exactly_the_views_of_moontide(parsed, live):
    expected = {
        spec.name: {
            "keys": [[key, "String"] for key in spec.entities],
            "features": [[f.name, str(codec_of(f.type).feast)] for f in spec.fields],
            "dims": {"embedding": spec.space.dim} if spec.space else {},
            "ttl": spec.ttl.total_seconds() if spec.ttl else 0,
            "times": ["event_timestamp", spec.created],
            "push": f"{spec.name}_push",
        }
        for spec in live.views()
    }
    assert parsed["views"] == expected


def test_feast_registers_the_two_entities(parsed):
    assert parsed["entities"] == {"item": "item_id", "user": "user_id"}


def test_each_service_is_pinned_to_its_space_and_tiers(parsed, live):
    expected = {
        s.name: [
            [s.space.view, ["embedding"]],
            [s.simtier.view, ["counts", "missing"]],
            *([["item_features", list(s.item_fields)]] if s.item_fields else []),
        ]
        for s in live.services
    }
    assert parsed["services"] == expected


def test_the_live_space_is_the_artifact_that_ships(live):
    for space in live.spaces:
        manifest = json.loads((space.artifact / "manifest.json").read_text())
        assert space.space.encoder_digest == manifest["digest"]


def test_the_folder_is_flat_and_no_package():
    assert [p.parent for p in modules()] == [REPO] * len(modules())
    assert not (REPO / "__init__.py").exists()


def test_no_file_is_named_like_a_module_of_somebody_else(tmp_path):
    stems = [p.stem for p in modules()]
    code = f"import importlib.util as u; print([s for s in {stems!r} if u.find_spec(s)])"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_definitions_import_moontide_feast_and_each_other():
    siblings = {p.stem for p in modules()}
    allowed = siblings | {"moontide", "feast"} | set(sys.stdlib_module_names)
    assert {p.name: sorted(set(imports_of(p)) - allowed) for p in modules()} == {p.name: [] for p in modules()}


def test_nothing_imports_the_definitions():
    packages = ["moontide", "encoders", "jobs", "serving", "benchmarks", "tests"]
    files = [p for package in packages for p in (ROOT / package).rglob("*.py")]
    assert not [str(p.relative_to(ROOT)) for p in files if "feature_repo" in set(imports_of(p))]
