"""Long studies as runs of commands: each run leaves a folder, and a folder that is done is not run again.

A run's folder holds ``run.json`` (its commands and what they depend on), ``log.txt`` and the result. A run is done when its
result is there and ``run.json`` is what would be run now; a run whose commands or inputs changed is run anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from moontide.errors import Misconfigured

RESULT: Final = "result.json"
#: Stands in a command for the run's own folder.
HERE: Final = "{run}"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One point of a study.

    Args:
        name: its folder below the study's.
        commands: run in order; the last leaves ``{run}/result.json``.
        depends: what else decides the result, e.g. the digest of an artifact.
        seconds: expected duration, 0 where unknown: estimates begin with it.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    depends: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def folder(self, root: Path) -> Path:
        """Where the run leaves its files."""
        return root / self.name

    def described(self) -> str:
        """Content of ``run.json``."""
        return json.dumps({"commands": self.commands, "depends": dict(self.depends)}, sort_keys=True)

    def done(self, root: Path) -> bool:
        """The result is there, from these very commands."""
        folder = self.folder(root)
        try:
            return (folder / RESULT).is_file() and (folder / "run.json").read_text("utf-8") == self.described()
        except OSError:
            return False

    def result(self, root: Path) -> Any:
        """The result of a run that is done.

        Raises:
            Misconfigured: not there, or no JSON.
        """
        path = self.folder(root) / RESULT
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Misconfigured(f"{path}: expected JSON; {error}; delete the folder and run the study again") from error


def python(module: str, *arguments: object) -> tuple[str, ...]:
    """``python -m module arguments`` with this interpreter."""
    return (sys.executable, "-m", module, *map(str, arguments))


def execute(runs: Sequence[Run], root: Path, *, say: Say, clock: Callable[[], float], dry: bool = False, jobs: int = 1) -> bool:
    """Run what is not done, in order, with an estimate of what is left; False after a dry run, which only lists.

    Args:
        jobs: runs at a time, each in processes of its own.

    Raises:
        Misconfigured: two runs of one name, or a command that failed; its log's end is in the message. Runs that were under
            way are waited for, later ones are not begun.
    """
    names = Counter(run.name for run in runs)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise Misconfigured(f"study: expected each run once, got {twice} more than once")
    left = [run for run in runs if not run.done(root)]
    estimate = f", about {sum(run.seconds for run in left) / 60 / jobs:.0f} min" if all(run.seconds for run in left) else ""
    say(f"{len(runs)} runs, {len(runs) - len(left)} done, {len(left)} to go{estimate}")
    if dry:
        for run in runs:
            say(f"{'done' if run.done(root) else 'to do'}  {run.name}")
            for command in run.commands:
                say("       " + " ".join(command))
        return False
    progress = _Progress(left, jobs, say, clock)
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(progress.around, run, root) for run in left]):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return True


class _Progress:
    """Says what begins, what ended, and how long the rest will take. For several threads."""

    def __init__(self, runs: Sequence[Run], jobs: int, say: Say, clock: Callable[[], float]) -> None:
        self._left, self._total, self._jobs = {run.name: run for run in runs}, len(runs), jobs
        self._say, self._clock, self._lock = say, clock, threading.Lock()
        self._begun, self._spent, self._expected = 0, 0.0, 0.0

    def around(self, run: Run, root: Path) -> None:
        """Execute one run."""
        with self._lock:
            self._begun += 1
            self._say(f"[{self._begun}/{self._total}] {run.name}")
        started = self._clock()
        _execute_one(run, root)
        seconds = self._clock() - started
        with self._lock:
            del self._left[run.name]
            self._spent += seconds
            self._expected += run.seconds
            done = self._total - len(self._left)
            self._say(f"[{done}/{self._total}] {run.name}: {seconds:.0f} s, about {self._remaining(done) / 60:.1f} min left")

    def _remaining(self, done: int) -> float:
        # Expected durations say how the rest compares with what is over; without them every run counts the same.
        rest = sum(later.seconds for later in self._left.values())
        by_expected = self._expected and rest
        total = self._spent * rest / self._expected if by_expected else self._spent / done * len(self._left)
        return total / self._jobs


def _execute_one(run: Run, root: Path) -> None:
    folder = run.folder(root)
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    # Beside, until everything is there: a killed study must not find half a result.
    with (folder / "log.txt").open("wb") as log:
        for command in run.commands:
            filled = [part.replace(HERE, str(folder)) for part in command]
            log.write(("$ " + " ".join(filled) + "\n").encode())
            log.flush()
            code = subprocess.run(filled, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
            if code:
                raise Misconfigured(f"{run.name}: expected exit code 0, got {code} from {' '.join(filled)}\n{_tail(folder)}")
    if not (folder / RESULT).is_file():
        raise Misconfigured(f"{run.name}: expected {folder / RESULT} after its commands, got no such file\n{_tail(folder)}")
    (folder / "run.json").write_text(run.described(), encoding="utf-8")


def _tail(folder: Path) -> str:
    return (folder / "log.txt").read_bytes()[-1500:].decode("utf-8", "replace")
