"""``make demo`` as a user runs it, and the commands to look around with afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def moontide(*args, home=None, timeout=120):
    """Run the command in a process of its own; (exit code, stdout, stderr)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
    if home is not None:
        env["MOONTIDE_HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-m", "moontide", *map(str, args)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    code, said, complained = moontide("demo", "--out", out, timeout=500)
    assert code == 0, said[-3000:] + complained[-3000:]
    return out, said


def test_it_ends_with_a_table_of_figures(demo):
    said = demo[1]
    assert re.search(r"items, text only +3,721\b", said)
    assert re.search(r"items, image only +600\b", said)
    assert re.search(r"items, image and text +461\b", said)
    assert re.search(r"backfill +\d[\d,]* items/s", said)
    assert re.search(r"coverage online +100\.0 %", said)
    assert re.search(r"coverage of the index +100\.0 %", said)
    assert re.search(r"size of the index +[\d.]+ MB", said)
    assert re.search(r"packed read of 1,000 ids, p99 +[\d.]+ ms", said)


def test_feast_and_the_client_gave_the_same_values(demo):
    same = re.findall(r"Feast (online|point in time) = RankingClient +([\d,]+) of ([\d,]+) values equal, bit for bit", demo[1])
    assert [name for name, _, _ in same] == ["online", "point in time"]
    assert all(equal == total and int(total.replace(",", "")) > 100 for _, equal, total in same)


def test_it_ends_by_asking_the_server_over_http(demo):
    out, said = demo
    assert re.search(r"\$ python -m serving --port \d+ &", said)
    equal, total = re.search(r"features over HTTP = RankingClient +([\d,]+) of ([\d,]+) values equal, bit for bit", said).groups()
    assert equal == total and int(total.replace(",", "")) > 100
    assert re.search(r"500 candidates over HTTP, p50 +[\d.]+ ms +p99 [\d.]+ ms, Arrow; [\d.]+ ms in process", said)
    assert "Traceback" not in (out / "serving.log").read_text()
    assert "for 500 candidates over HTTP (p50)" in (out / "report.html").read_text(encoding="utf-8")


EFFECTS = {
    "a new title moved the neighbours": r"[1-6] of 6 are others",
    "the new item is found by search": "first hit for its own vector",
    "the deleted item is gone from reads": "a tombstone, no vector",
    "the deleted item is gone from search": "was the first hit before",
    "the broken record is a dead letter": "not_json",
    "purchases changed the customer's tiers": r"[1-9]\d* counts moved",
    "the tiers stored ahead are current": "equal to those computed on request",
}


def test_each_event_had_its_effect(demo):
    out, said = demo
    assert re.search(r"597 events settled and durable: 584 applied, 1 dead, 12 unchanged", said)
    page = (out / "report.html").read_text(encoding="utf-8")
    for name, words in EFFECTS.items():
        assert re.search(rf"{name} +{words}", said), name
        assert name.replace("'", "&#x27;") in page
    assert "SET OF 3 MOON AND TIDE CANDLES" in page
    assert re.search(r"item-events\[\d\]@\d+: not_json", page)
    assert re.search(r"item event to readable online, p50 +\d+ ms +p99 \d+ ms", said)
    assert re.search(r"behaviour to current tiers, p50 +\d+ ms +p99 \d+ ms", said)


def running(folder):
    """Command lines of processes that name `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # Commands of ours name the demo's folder; the consumer has it in its environment.
                if str(folder).encode() in (entry / "environ").read_bytes() or str(folder) in line:
                    found.append(line)
    return found


def test_nothing_is_left_running(demo):
    assert running(demo[0]) == []


def test_broker_and_consumer_are_stopped_when_it_is_interrupted(demo, tmp_path):
    code = (
        "import pathlib, sys\n"
        "from moontide.cli.demo import environment\n"
        "from moontide.cli.nearline import Nearline\n"
        "import subprocess\n"
        "home, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        "one = Nearline.made(pathlib.Path.cwd(), out, environment(home))\n"
        "with one.broker():\n"
        "    subprocess.run(one.broker_command, check=True)\n"
        "    subprocess.run([*one.environment, *one.topics_command], check=True)\n"
        "    with one.consumer():\n"
        "        print('ready', flush=True)\n"
        "        raise KeyboardInterrupt\n"
    )
    home = tmp_path / "home"
    shutil.copytree(demo[0] / "home", home)
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, home, out], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert "ready" in done.stdout and "KeyboardInterrupt" in done.stderr, done.stderr[-2000:]
    assert running(tmp_path) == []


def test_the_report_has_pictures_tiers_and_the_space(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    digest = re.search(r'encoder_digest = "(sha256:[0-9a-f]{64})"', (ROOT / "feature_repo" / "spaces.toml").read_text())[1]
    assert digest in page
    assert page.count("data:image/jpeg;base64,") >= 20
    assert page.count('class="candidate"') == 5
    assert page.count("<rect") == (5 + 2) * 20
    assert not re.search(r'(src|href)="(?!data:)', page)
    counted = [int(n) for n in re.findall(r"(\d+) behaviours counted", page)]
    assert all(0 < n <= 50 for n in counted)
    assert len(counted) == 5


def test_doctor_finds_no_problem(demo):
    code, said, _ = moontide("doctor", home=demo[0] / "home")
    assert code == 0, said
    assert "4,781 of 4,781 items current offline" in said
    assert "no problem found" in said


def test_doctor_finds_an_item_that_the_online_store_has_lost(demo):
    lose = (
        "from moontide.settings import Settings; from moontide.stores import online_store; from moontide.live import load_spaces\n"
        "from moontide import views\n"
        "s = Settings(); space = load_spaces(s.spaces_path).space('moon_v2'); store = online_store(s)\n"
        "view = views.embedding_view(space); kept = store.read_records(view, ['lu:MH07-Red', 'lu:MH07-Black'])\n"
        "import sys\n"
        "if sys.argv[1] == 'lose':\n"
        "    import pyarrow.parquet as pq; pq.write_table(kept, sys.argv[2]); print(store.delete(view, ['lu:MH07-Black']))\n"
        "else:\n"
        "    import pyarrow.parquet as pq; store.write_rows(view, pq.read_table(sys.argv[2])); store.close()\n"
    )
    env = {**os.environ, "MOONTIDE_HOME": str(demo[0] / "home")}
    kept = demo[0] / "kept.parquet"
    subprocess.run([sys.executable, "-c", lose, "lose", kept], cwd=ROOT, env=env, check=True, timeout=60)
    code, said, _ = moontide("doctor", home=demo[0] / "home")
    subprocess.run([sys.executable, "-c", lose, "restore", kept], cwd=ROOT, env=env, check=True, timeout=60)
    assert code == 1
    assert re.search(r"BAD +moon_v2 online +4,780 of 4,781 .*1 are missing: run the backfill again", said)


def test_similar_names_the_same_hoodie_in_other_colours_first(demo):
    code, said, complained = moontide(
        "similar", "lu:MH07-Green", "-k", 3, "--catalog", "examples/data/catalog.parquet", home=demo[0] / "home"
    )
    assert code == 0, complained
    found = re.findall(r"(\d\.\d{3})  (\S+) .*?(\S.*)", said)
    assert len(found) == 3
    assert [float(score) for score, _, _ in found] == sorted((float(score) for score, _, _ in found), reverse=True)
    assert "lu:MH07-Green" not in {item for _, item, _ in found}
    assert {item for _, item, _ in found} & {"lu:MH07-Black", "lu:MH07-Gray"}
    assert "Hero Hoodie" in said


def test_similar_to_an_unknown_item_is_one_line(demo):
    code, _, complained = moontide("similar", "or:nope", home=demo[0] / "home")
    assert code == 1
    lines = [line for line in complained.splitlines() if "Warning" not in line and not line.startswith("  ")]
    assert len(lines) == 1
    assert lines[0].startswith("moontide: item or:nope: expected a vector in moon_v2")


def test_features_as_json_keep_unknown_items_in_their_place(demo):
    code, said, complained = moontide("features", "u:12362", "or:22423", "or:nope", "or:22423", "--json", home=demo[0] / "home")
    assert code == 0, complained
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row["item_id"] for row in rows] == ["or:22423", "or:nope", "or:22423"]
    assert rows[0] == rows[2]
    assert len(rows[0]["embedding"]) == 256
    assert sum(rows[0]["counts"]) + rows[0]["missing"] <= 50
    assert rows[1]["embedding"] is None
    assert sum(rows[1]["counts"]) == 0
    assert rows[1]["missing"] == 50


def test_features_for_people_are_a_table(demo):
    code, said, complained = moontide("features", "u:12362", "or:22423", home=demo[0] / "home")
    assert code == 0, complained
    assert "space moon_v2" in said
    assert re.search(r"or:22423 +yes +\|.{20}\|", said)


def test_the_python_of_the_readme_runs(demo):
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    env = {**os.environ, "MOONTIDE_HOME": str(demo[0] / "home")}
    code = block + "\nprint(rows.num_rows, rows.column_names)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 ['item_id', 'embedding', 'embedding_present', 'counts', 'missing', 'price', 'category']")
