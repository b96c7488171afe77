"""The evaluation's figures against sums written here again, from the files on disk, over a cheap encoder.

The oracle shares no code with the evaluation: it reads the CSV itself, quantises itself, and ranks by plain loops.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoders.evaluation.measures import run
from encoders.evaluation.tasks import Task
from encoders.evaluation.tasks_build import build_folder
from encoders.evaluation.vectors import ByCodes, ByFloats, Vectors
from encoders.item import Item
from moontide.spaces import EmbeddingSpace

pytestmark = pytest.mark.contract

DIM = 24
MODELS = ("nikon d40 camera kit", "sony a7 body", "canon eos 90d lens", "fuji x100 silver", "leica m6 black", "pentax k3 set")
EXTRAS = ("", " new", " in box", " 2 years warranty", " @en", ' 18" bag', " free ship", ", used", " <b>", " é")


def _direction(key: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM)


def words_vector(text: str) -> NDArray[np.float64]:
    """Sum of a random direction per three characters."""
    padded = f"  {text}  "
    return np.sum([_direction(padded[at : at + 3]) for at in range(len(padded) - 2)], axis=0)


def picture_vector(data: bytes) -> NDArray[np.float64]:
    """Random directions weighted by the mean of each channel."""
    mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64).mean(axis=(0, 1)) - 128.0
    return mean @ np.stack([_direction(name) for name in "rgb"]) + 0.01 * _direction(hashlib.sha256(data).hexdigest())


class Cheap:
    """What `Vectors` asks of an encoder."""

    space = EmbeddingSpace("cheap", 1, DIM)

    def prepare(self, items: list[Item]) -> Any:
        good = [item for item in items if item.image is not None or (item.title or "").strip()]
        rows = [picture_vector(item.image) if item.image else words_vector(item.title or "") for item in good]
        return SimpleNamespace(ids=tuple(item.item_id for item in good), rejects=(), rows=rows)

    def floats(self, prepared: Any) -> NDArray[np.float32]:
        return np.array(prepared.rows, np.float32).reshape(-1, DIM)


def codes_of(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Whole numbers in -127..127, over their length: the vector as served."""
    codes = []
    for row in np.array(rows, np.float32):
        scale = np.float32(np.abs(row).max() / np.float32(127))
        whole = np.rint(row / scale).astype(np.int64)
        codes.append(whole / np.sqrt(float((whole * whole).sum())))
    return np.array(codes)


def ranked(vectors: NDArray[np.float64], query: int, out: set[int]) -> list[int]:
    """Gallery rows without `out`, best first."""
    scores = [(-float(vectors[query] @ vectors[row]), row) for row in range(len(vectors)) if row not in out]
    return [row for _, row in sorted(scores)]


def oracle(vectors: NDArray[np.float64], right: dict[int, set[int]], out: dict[int, set[int]]) -> dict[str, float]:
    """Means over the queries that have a right answer left."""
    sums: dict[str, list[float]] = defaultdict(list)
    for query in range(len(vectors)):
        wanted = right[query] - out[query]
        if not wanted:
            continue
        order = ranked(vectors, query, out[query])
        for k in (1, 10, 50):
            sums[f"recall_at_{k}"].append(float(any(row in wanted for row in order[:k])))
        sums["precision_at_10"].append(sum(row in wanted for row in order[:10]) / 10)
        found, precisions = 0, []
        for rank, row in enumerate(order, 1):
            if row in wanted:
                found += 1
                precisions.append(found / rank)
        sums["map"].append(sum(precisions) / len(wanted))
    return {name: sum(values) / len(values) for name, values in sums.items()} | {"queries": float(len(sums["map"]))}


def measured(folder: Path, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """The evaluation's figures of one task, from codes and from floats."""
    task: Task = next(task for task in build_folder(folder, split="all").tasks if task.name.endswith(name))
    vectors = Vectors(Cheap())  # type: ignore[arg-type]
    served = run(task, ByCodes("codes", vectors)) | {"queries": float(len(task.queries))}
    return served, run(task, ByFloats("floats", vectors))


def agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _titles() -> list[tuple[int, str]]:
    """(product, title); two products share a title string that is spelt in two ways, and one string repeats."""
    found = [(number, model + extra) for number, model in enumerate(MODELS) for extra in EXTRAS]
    return [*found, (0, "Sony  A7  Body"), (3, "fuji x100 silver new"), (7, "a title alone")]


def _by_string(titles: list[str]) -> tuple[list[str], dict[str, int]]:
    first: dict[str, str] = {}
    for title in titles:
        first.setdefault(" ".join(title.casefold().split()), " ".join(title.split()))
    return list(first.values()), {key: at for at, key in enumerate(first)}


def _place(title: str, places: dict[str, int]) -> int:
    return places[" ".join(title.casefold().split())]


def _expected_of(texts: list[str], joined: list[tuple[int, int]]) -> dict[str, float]:
    right: dict[int, set[int]] = defaultdict(set)
    for one, other in joined:
        right[one].add(other)
        right[other].add(one)
    return oracle(codes_of([words_vector(text) for text in texts]), right, {at: {at} for at in range(len(texts))})


def test_pairs_join_by_string_and_mask_their_own(tmp_path: Path) -> None:
    titles, draw = _titles(), np.random.default_rng(3)
    rows = []
    for _ in range(150):
        (product, left), (other, right) = (titles[at] for at in draw.integers(len(titles), size=2))
        rows.append({"title_left": left, "title_right": right, "label": int(product == other), "split": "train"})
    _write(tmp_path / "pairs.csv", rows)
    texts, places = _by_string([title for row in rows for title in (row["title_left"], row["title_right"])])
    joined = [(_place(row["title_left"], places), _place(row["title_right"], places)) for row in rows if row["label"]]
    found, _ = measured(tmp_path, "title_to_title")
    agree(found, _expected_of(texts, joined))
    assert 0 < found["recall_at_1"] < 1, "a task on which everything or nothing is found shows no fault"


def test_titles_of_a_product_are_the_same_question(tmp_path: Path) -> None:
    titles = _titles()
    _write(tmp_path / "items.csv", [{"item_id": f"n{at}", "group": f"p{p}", "title": t} for at, (p, t) in enumerate(titles)])
    texts, places = _by_string([title for _, title in titles])
    joined = [(_place(one, places), _place(other, places)) for p, one in titles for q, other in titles if p == q]
    found, _ = measured(tmp_path, "title_to_title")
    agree(found, _expected_of(texts, joined))


def _photos(folder: Path, senders: int | None) -> tuple[list[bytes], list[str], list[int]]:
    draw = np.random.default_rng(5)
    rows, pictures, labels, groups = [], [], [], []
    (folder / "images").mkdir(parents=True)
    for at in range(90):
        kind, sender = at % 4, int(draw.integers(senders)) if senders else at
        pixels = np.clip(np.array([60, 110, 160]) + 25 * kind + draw.normal(0, 60, (12, 10, 3)) + draw.normal(0, 25, 3), 0, 255)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        (folder / "images" / f"photo-{at}.png").write_bytes(file.getvalue())
        label = "alone" if at == 0 else ("Not sure" if at == 1 else f"kind, {kind}")
        rows.append({"image_id": f"photo-{at}", "label": label} | ({"sender_id": f"s{sender}"} if senders else {}))
        if label != "Not sure":
            pictures.append(file.getvalue())
            labels.append(label)
            groups.append(sender)
    _write(folder / "items.csv", rows)
    return pictures, labels, groups


@pytest.mark.parametrize("senders", [9, None])
def test_photos_find_their_kind_without_their_own_sender(tmp_path: Path, senders: int | None) -> None:
    pictures, labels, groups = _photos(tmp_path, senders)
    vectors, count = codes_of([picture_vector(data) for data in pictures]), range(len(pictures))
    right = {at: {row for row in count if labels[row] == labels[at]} for at in count}
    out = {at: {row for row in count if groups[row] == groups[at]} for at in count}
    found, floats = measured(tmp_path, "image_to_image")
    agree(found, oracle(vectors, right, out))
    assert floats["map"] != found["map"], "codes and floats rank alike: the codes are not what was asked"
