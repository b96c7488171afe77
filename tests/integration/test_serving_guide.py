"""The programs of ``docs/guides/serving.md``, run as they are printed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.http.tokens import Tokens
from tests.http_server import running
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.integration
GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
TOKEN = "a-token-of-some-length"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
def test_the_java_program_compiles_and_prints_the_features(tmp_path):
    (source,) = blocks("java")
    (tmp_path / "Features.java").write_text(source)
    subprocess.run(["javac", "-Xlint:all", "-Werror", "Features.java"], cwd=tmp_path, check=True, timeout=120)
    client, live = opened(tmp_path)
    with client, running(client, live, tokens=Tokens(TOKEN)) as url:
        run = ["java", "-XX:TieredStopAtLevel=1", "-cp", str(tmp_path), "Features", url]
        said = subprocess.run([*run, TOKEN], capture_output=True, text=True, timeout=60)
        refused = subprocess.run([*run, "another-token"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert '"item_id":["or:22423","or:85123A"]' in said.stdout and '"space":"moon_v1"' in said.stdout
    assert refused.returncode == 1 and "401" in refused.stderr and "application" not in refused.stdout


def test_the_python_of_the_guide_compiles():
    for number, block in enumerate(blocks("python")):
        compile(block.replace("retrieve(...)", "retrieve()"), f"block {number}", "exec")
