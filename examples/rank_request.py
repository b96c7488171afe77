"""Rank 500 items for a real user, from the shop's sales to the top 10: python examples/rank_request.py --site build/rank.

The first call makes the site (some minutes): catalog and purchases of Online Retail into the offline tables and the LMDB store by
the jobs, a training set as of each purchase, a small model trained on it (`ranking/configs/served.toml`) and exported. Every
call then reads one request from the store through `RankingClient`, scores it by the exported model, and prints the first items
with the time of each part. Serving needs neither torch nor Spark.

The model reads only what the store gives at request time: ids, vectors and times of the user's last behaviours, tiers, the
candidates' vectors, their price, how long the user's sequence is and how often the user bought the item before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders.purchases import read_catalog, read_purchases
from moontide import schemas
from moontide.cli.demo import SERVICE, environment, write_spaces
from moontide.errors import Misconfigured, MoontideError
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from ranking.served import RankingModel, Request
from serving import RankingClient

CHECKOUT = Path(__file__).resolve().parents[1]
CANDIDATES = 500
DAYS_30 = 30 * 86_400_000_000
#: Written last: a site that has it is whole.
DONE = "served/manifest.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the site where it is not there, then rank. Exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Rank 500 items for a real user.")
    parser.add_argument("--site", type=Path, default=CHECKOUT / "build" / "rank", help="folder, made by the first call")
    parser.add_argument("--data", type=Path, default=CHECKOUT / "training" / "data" / "online_retail", help="items and sales")
    parser.add_argument("--model", default="sata_simtier", help="a model of ranking/configs/served.toml")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="another setting of the training")
    parser.add_argument("--user", help="default: one with 60 behaviours or more")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--repeat", type=int, default=50, help="requests whose median is shown")
    args = parser.parse_args(argv)
    try:
        if not (args.site / DONE).is_file():
            make_site(args.site, args.data, args.model, args.set)
        rank(args.site, args.user, args.candidates, max(args.repeat, 1))
    except (MoontideError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def make_site(site: Path, data: Path, model: str, overrides: Sequence[str] = ()) -> None:
    """Stores, training set and exported model below `site`, each step by the command that a user would type."""
    home = site / "home"
    home.mkdir(parents=True, exist_ok=True)
    write_spaces(CHECKOUT, home)
    pq.write_table(read_catalog(data), site / "catalog.parquet")
    write_behaviours(data, site / "behaviours.parquet")
    service = load_spaces(home / "spaces.toml").service(SERVICE)
    spec = service.simtier
    job = ("--home", home)
    settings = [part for each in overrides for part in ("--set", each)]
    trained = ["--config", "served", *settings, "--data", site / "set", "--model", model, "--length", spec.length]
    for module, *arguments in (
        ("jobs.backfill_embeddings", *job, "--catalog", site / "catalog.parquet", "--space", service.space.id, "--history"),
        ("jobs.user_sequences", *job, "--behaviours", site / "behaviours.parquet"),
        ("jobs.training_set", *job, "--purchases", data, "--spec", spec.spec_id, "--engine", "single", "--out", site / "set"),
        ("ranking.train", *trained, "--save", site / "model.safetensors", "--json", site / "run.json"),
        (
            "ranking.export",
            *trained,
            "--weights",
            site / "model.safetensors",
            "--service",
            service.name,
            "--out",
            site / "served",
        ),
    ):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        print("$ python " + " ".join(command[1:]), file=sys.stderr, flush=True)  # noqa: T201
        done = subprocess.run([*environment(home), *command], cwd=CHECKOUT, check=False)
        # 3: done, some rows rejected.
        if done.returncode not in (0, 3):
            raise Misconfigured(f"{module}: ended with {done.returncode}; its message is above")


def write_behaviours(data: Path, path: Path) -> None:
    """Purchases of known customers, the ones that training sets of these sales are made of."""
    bought = read_purchases(data)
    users, items = pa.array(bought.user_ids), pa.array(bought.item_ids)
    columns = {
        "user_id": users.take(pa.array(bought.user)), "item_id": items.take(pa.array(bought.item)),
        "action": pa.array(["purchase"] * len(bought)), "event_timestamp": pa.array(bought.time).cast(schemas.TIMESTAMP),
    }  # fmt: skip
    pq.write_table(pa.table([columns[field.name] for field in schemas.BEHAVIOURS], schema=schemas.BEHAVIOURS), path)


def rank(site: Path, user: str | None, count: int, repeat: int) -> None:
    """One request, shown; then `repeat` of them, timed."""
    home = site / "home"
    behaviours = pq.read_table(site / "behaviours.parquet")
    chosen, items = user or a_user(behaviours), popular(behaviours, count)
    model = RankingModel.load(site / "served")
    with RankingClient(online_store(Settings(home=home, online="lmdb")), load_spaces(home / "spaces.toml")) as client:
        request = model.read(client, chosen, items)
        logits = model.logits(request)
        show(site, chosen, request, logits)
        print(timings(model, client, chosen, items, repeat))  # noqa: T201


def show(site: Path, user: str, request: Request, logits: np.ndarray) -> None:
    """The first ten, with titles and probabilities."""
    catalog = pq.read_table(site / "catalog.parquet", columns=["item_id", "title"])
    titles = dict(zip(catalog["item_id"].to_pylist(), catalog["title"].to_pylist(), strict=True))
    print(f"user {user}: {int(request.feeds['present'].sum())} behaviours read, {len(logits)} candidates")  # noqa: T201
    for place, at in enumerate(np.argsort(-logits, kind="stable")[:10], 1):
        item = request.item_ids[at]
        print(f"{place:3}  {1 / (1 + np.exp(-logits[at])):.3f}  {item:8}  {titles.get(item, '')}")  # noqa: T201


def timings(model: RankingModel, client: RankingClient, user: str, items: list[str], repeat: int) -> str:
    """Medians in milliseconds: features, sequence, inputs and both reads together, and the model."""
    spent: dict[str, list[float]] = {"features": [], "sequence": [], "read, whole": [], "model": []}
    for _ in range(repeat):
        marks = [time.perf_counter()]
        client.features(user, items, service=model.contract.service)
        marks.append(time.perf_counter())
        client.sequence(user, service=model.contract.service, length=None)
        marks.append(time.perf_counter())
        request = model.read(client, user, items)
        marks.append(time.perf_counter())
        model.logits(request)
        marks.append(time.perf_counter())
        for name, took in zip(spent, np.diff(marks), strict=True):
            spent[name].append(1000 * float(took))
    parts = ", ".join(f"{name} {statistics.median(values):.2f} ms" for name, values in spent.items())
    return f"median of {repeat}, one thread: {parts}"


def a_user(behaviours: pa.Table) -> str:
    """The first user with 60 to 200 behaviours."""
    counted = behaviours.group_by("user_id").aggregate([("item_id", "count")]).sort_by("user_id")
    size = counted["item_id_count"]
    found = counted.filter(pc.and_(pc.greater_equal(size, 60), pc.less_equal(size, 200)))["user_id"]
    return str((found if len(found) else counted["user_id"])[0])


def popular(behaviours: pa.Table, count: int) -> list[str]:
    """What sold most in the last 30 days: a stand-in for retrieval."""
    times = behaviours["event_timestamp"].cast(pa.int64())
    recent = behaviours.filter(pc.greater(times, pc.subtract(pc.max(times), DAYS_30)))
    counted = recent.group_by("item_id").aggregate([("user_id", "count")])
    ranked = counted.sort_by([("user_id_count", "descending"), ("item_id", "ascending")])
    return list(ranked["item_id"].to_pylist())[:count]


if __name__ == "__main__":
    raise SystemExit(main())
