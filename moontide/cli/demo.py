"""``moontide demo``: the main job on the example data, as the commands a user would type, then the report."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moontide.cli.console import complain, say
from moontide.cli.nearline import EVENTS, Nearline, keep
from moontide.cli.process import Program, free_port
from moontide.errors import Misconfigured, Transient
from moontide.live import load_spaces

#: The feature service the demo reads.
SERVICE: Final = "ctr_v1"
#: What the events did, for the report.
APPLIED: Final = "applied.json"
_MARKER: Final = ".moontide-demo"
_SHOWCASE: Final = (sys.executable, "-m", "moontide.cli.showcase")
_ARTIFACT: Final = re.compile(r'^artifact = "([^"]*)"$', re.MULTILINE)
_NEEDED: Final = (
    "examples/data/catalog.parquet",
    "feature_repo/feature_store.yaml",
    "feature_repo/spaces.toml",
    "artifacts",
    EVENTS,
    "scripts/kafka.sh",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command: what it does, in words, and its arguments."""

    title: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module it runs, or its program."""
        return self.command[2] if self.command[1] == "-m" else Path(self.command[0]).name


class Runner:
    """Runs steps with their output, numbered.

    Args:
        checkout: the repository; commands run there.
        out: folder of the demo; gets the seconds of each step.
        environment: arguments of ``env``.
    """

    def __init__(self, checkout: Path, out: Path, environment: list[str]) -> None:
        self.checkout = checkout
        self.out = out
        self.environment = environment
        self.number = 0
        self._seconds: dict[str, float] = {}

    def announce(self, step: Step, *, behind: str = "") -> None:
        """Say what is done; `behind` follows the command."""
        self.number += 1
        say(f"\n[{self.number}] {step.title}")
        say("    $ " + shown(step.command, self.checkout) + behind)

    def run(self, step: Step) -> None:
        """Run one step.

        Raises:
            Transient: it failed; it has said why.
        """
        self.announce(step)
        start = time.monotonic()
        done = subprocess.run([*self.environment, *step.command], cwd=self.checkout, check=False)
        if done.returncode:
            raise Transient(f"demo: step {self.number} ({step.title}) ended with {done.returncode}; its message is above")
        took = self._seconds[step.name] = time.monotonic() - start
        complain(f"    {took:.1f} s")
        (self.out / "steps.json").write_text(json.dumps(self._seconds, indent=2) + "\n", encoding="utf-8")


def demo(checkout: Path, out: Path) -> int:
    """Run the demo of the repository at `checkout` into `out`, made anew; returns 0.

    Raises:
        Misconfigured: not a checkout, or `out` holds something else.
        Transient: a step failed; it has said why.
    """
    missing = [name for name in _NEEDED if not (checkout / name).exists()]
    if missing:
        raise Misconfigured(f"demo: expected a checkout of the repository at {checkout}, got none of {missing}; run it there")
    home = prepare(out)
    write_spaces(checkout, home)
    start, runner = time.monotonic(), Runner(checkout, out, environment(home))
    for step in steps(checkout, out, home):
        runner.run(step)
    send_events(runner)
    ask_server(runner)
    say(f"\ndemo done in {time.monotonic() - start:.0f} s; open {out / 'report.html'}")
    say(f"look around with: export MOONTIDE_HOME={shlex.quote(str(home))}; moontide doctor")
    return 0


def prepare(out: Path) -> Path:
    """An empty home below `out`; only a folder that an earlier demo made is cleared.

    Raises:
        Misconfigured: `out` holds something else.
    """
    if out.exists() and not (out / _MARKER).exists() and any(out.iterdir()):
        raise Misconfigured(f"demo: expected a new or empty folder, got {out} with other content; choose another --out")
    if (out / _MARKER).exists():
        shutil.rmtree(out)
    home = out / "home"
    home.mkdir(parents=True)
    (out / _MARKER).touch()
    return home


def write_spaces(checkout: Path, home: Path) -> None:
    """The repository's live spaces as this home's own, naming each artifact where it lies."""
    text = (checkout / "feature_repo" / "spaces.toml").read_text(encoding="utf-8")
    repository = checkout / "feature_repo"
    text = _ARTIFACT.sub(lambda found: f'artifact = "{(repository / found[1]).resolve()}"', text)
    (home / "spaces.toml").write_text(text, encoding="utf-8")


def steps(checkout: Path, out: Path, home: Path) -> list[Step]:
    """The demo, in order."""
    python, data = sys.executable, checkout / "examples" / "data"
    service = load_spaces(home / "spaces.toml").service(SERVICE)
    feast = str(Path(python).with_name("feast"))
    pairs = out / "pairs.parquet"
    return [
        Step("register views and services with Feast", (feast, "-c", str(checkout / "feature_repo"), "apply")),
        Step(
            "encode the catalog; fill offline tables, online store and index",
            (
                python,
                "-m",
                "jobs.backfill_embeddings",
                "--home",
                str(home),
                "--catalog",
                str(data / "catalog.parquet"),
                "--space",
                service.space.id,
            ),
        ),
        Step(
            "merge purchases into the users' sequences",
            (python, "-m", "jobs.user_sequences", "--home", str(home), "--behaviours", str(data / "behaviours.parquet")),
        ),
        Step("choose a few users and candidates", (*_SHOWCASE, "pairs", str(data), str(pairs))),
        Step(
            "compute their tiers ahead",
            (
                python,
                "-m",
                "jobs.simtier_backfill",
                "--home",
                str(home),
                "--pairs",
                str(pairs),
                "--spec",
                service.simtier.spec_id,
            ),
        ),
        Step("read, compare, measure", (*_SHOWCASE, "check", str(data), str(out))),
    ]


def send_events(runner: Runner) -> None:
    """A broker, the consumer and a file of events; broker and consumer are stopped when it returns or fails.

    Raises:
        Transient: one of them did not start, or not every event was settled in time.
    """
    nearline = Nearline.made(runner.checkout, runner.out, runner.environment)
    runner.environment = list(nearline.environment)
    with nearline.broker():
        runner.run(Step("start a Kafka broker on loopback", nearline.broker_command))
        runner.run(Step("make the topics", nearline.topics_command))
        runner.announce(Step("start the consumer", nearline.consumer_command), behind=" &")
        with nearline.consumer():
            runner.run(Step("send updates, a new item, deletes, a broken record, purchases", nearline.produce_command))
            keep(nearline.wait_applied(), nearline.dead_letters(), runner.out / APPLIED)


def ask_server(runner: Runner) -> None:
    """The feature server as a process, asked over HTTP; it is stopped when this returns or fails.

    Raises:
        Transient: it did not start, or gave other values than the client in process.
    """
    port = free_port()
    url, command = f"http://127.0.0.1:{port}", (sys.executable, "-m", "serving", "--port", str(port))
    log = runner.out / "serving.log"
    runner.announce(Step("start the feature server", command), behind=" &")
    with Program("feature server", [*runner.environment, *command], runner.checkout, log, f"{url}/readyz").running():
        data = str(runner.checkout / "examples" / "data")
        runner.run(Step("read again, compare, ask the server, report", (*_SHOWCASE, "report", data, str(runner.out), url)))


def environment(home: Path) -> list[str]:
    """Arguments of ``env``: the demo is the same whatever else the caller has set."""
    values = {
        "MOONTIDE_HOME": home,
        "MOONTIDE_SPACES_FILE": home / "spaces.toml",
        "MOONTIDE_OFFLINE": home / "offline",
        "MOONTIDE_INDEX_URI": home / "index.db",
        "MOONTIDE_ONLINE": "lmdb",
        "PYTHONWARNINGS": "ignore",
        "FEAST_USAGE": "False",
    }
    return ["env", "-u", "SPARK_HOME", *(f"{name}={value}" for name, value in values.items())]


def shown(command: Sequence[str], checkout: Path) -> str:
    """A command as one would type it in the checkout."""
    program = Path(command[0])
    first = program.name if program.parent.name == "bin" else command[0].removeprefix(f"{checkout}/")
    words = [first, *(word.removeprefix(f"{checkout}/") for word in command[1:])]
    return shlex.join(words)
