"""Encode throughput beside bare ONNX Runtime and beside sentence-transformers on the same weights; decoding and tokenising alone.

Both sides of a comparison must give the same vectors before anything is timed. Run:
``python -m benchmarks.encode ARTIFACT --pictures FOLDER [--text-artifact DIR --text-model DIR] [--rounds 7] [--threads 1]``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from benchmarks._report import interleave, machine, percentiles, ratio_interval, table
from encoders import Encoder, Item
from encoders.artifact import LAYOUT
from encoders.images import decode
from encoders.sample_inputs import ITEMS, cosines, smooth_pictures

BATCHES = (1, 32, 256)
WORDS = " ".join(f"{item.title} {item.attributes or ''}" for item in ITEMS).split()
#: How near the vectors of two programs must be that run the same weights.
SAME = 0.999

Cells = dict[str, Callable[[], object]]


def titles(count: int, *, seed: int = 0) -> list[str]:
    """`count` titles of 4 to 12 words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(4, 13))) for _ in range(count)]


def jpegs(folder: Path | None, count: int) -> list[bytes]:
    """`count` pictures: JPEG files of `folder`, over again where it has fewer; None: made-up ones of 400 x 400."""
    if folder is None:
        return [_jpeg(picture) for picture in smooth_pictures(count, 400)]
    found = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:count]]
    if not found:
        raise SystemExit(f"{folder}: expected .jpg files, got none")
    return [found[at % len(found)] for at in range(count)]


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def bare(artifact_files: Mapping[str, bytes], threads: int) -> dict[str, ort.InferenceSession]:
    """Plain sessions of a reader who knows nothing of moontide, with the same number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    names = [name for name in LAYOUT.models if name in artifact_files]
    return {n: ort.InferenceSession(artifact_files[n], options, providers=["CPUExecutionProvider"]) for n in names}


def bare_run(
    sessions: Mapping[str, ort.InferenceSession], pixels: NDArray[np.uint8], texts: Mapping[str, NDArray[np.generic]], rows: int
) -> NDArray[np.float32]:
    """What `Encoder.run` does at the least: one call of each tower, one of the fusion, float vectors."""
    dim = sessions[LAYOUT.fusion_model].get_outputs()[0].shape[-1]
    image = text = np.zeros((rows, dim), np.float32)
    if len(pixels):
        image = sessions[LAYOUT.image_model].run(None, {"pixels": pixels})[0]
    if texts:
        text = sessions[LAYOUT.text_model].run(None, dict(texts))[0]
    present = np.repeat(np.array([[len(pixels) > 0, len(texts) > 0]], np.float32), rows, axis=0)
    fused: NDArray[np.float32] = sessions[LAYOUT.fusion_model].run(None, {"image": image, "text": text, "present": present})[0]
    return fused


def cells_of(encoder: Encoder, items: Sequence[Item], sessions: Mapping[str, ort.InferenceSession]) -> Cells:
    """The four ways of one batch that has one modality, after checking that they agree."""
    prepared = encoder.prepare(items)
    rows, count = np.arange(len(items)), len(items)
    texts = {} if items[0].title is None else prepared.tokens.inputs(rows)
    expected = bare_run(sessions, prepared.pixels, texts, count)
    got = encoder.run(prepared)
    near = cosines(expected, got.to_float())
    if near.min() < SAME:
        raise SystemExit(f"Encoder.run and bare onnxruntime differ: cosine {near.min():.5f}; nothing was timed")
    made: Cells = {
        "bare onnxruntime": lambda: bare_run(sessions, prepared.pixels, texts, count),
        "Encoder.run": lambda: encoder.run(prepared),
        "Encoder.encode": lambda: encoder.encode(items),
    }
    if texts:
        made["hash and tokenise alone"] = lambda: encoder.prepare(items)
    else:
        size = (encoder.artifact.preprocessing.height, encoder.artifact.preprocessing.width)
        made["decode alone, 1 thread"] = lambda: [decode(item.image, size) for item in items if isinstance(item.image, bytes)]
    return made


def peer_cells(encoder: Encoder, model: str, items: Sequence[Item]) -> Cells:
    """sentence-transformers and `Encoder` on the same titles and weights, after both gave the same vectors."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(model, device="cpu")
    texts = [item.title or "" for item in items]
    near = cosines(encoder.encode(items).to_float(), np.asarray(peer.encode(texts), np.float32))
    if near.min() < SAME:
        raise SystemExit(f"sentence-transformers: cosine {near.min():.5f} with Encoder.encode; nothing was timed")
    return {
        "sentence-transformers encode": lambda: peer.encode(texts, batch_size=min(len(texts), 256), show_progress_bar=False),
    }


def report(title: str, unit: str, encoder: Encoder, batches: Mapping[int, Cells], rounds: int) -> str:
    """One table: a row for each way, the rate at each batch size, and its share of bare onnxruntime's."""
    rows: dict[str, list[str]] = {}
    for size, cells in batches.items():
        times = interleave(cells, rounds=rounds, calls=dict.fromkeys(cells, max(1, 64 // size)))
        for name, values in times.items():
            middle = percentiles(values)[1]
            share, low, high = ratio_interval(times["bare onnxruntime"], values)
            floor = "" if name == "bare onnxruntime" else f" = {share:.2f} [{low:.2f}, {high:.2f}]"
            rows.setdefault(name, []).append(f"{size / middle * 1e3:,.0f}{floor}")
    head = [title, *(f"{unit}/s, batch {size}" for size in batches)]
    return f"{encoder.space.id}, {encoder.precision}\n\n{table(head, [[name, *cells] for name, cells in rows.items()])}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder of JPEG files; none: made-up ones")
    parser.add_argument("--text-artifact", type=Path, help="artifact of a sentence encoder, as encoders.huggingface writes it")
    parser.add_argument("--text-model", help="its weights, for sentence-transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    flags = parser.parse_args()
    print(machine(), f"threads {flags.threads}")
    encoder = Encoder.load(flags.artifact, threads=flags.threads, precision=flags.precision)
    sessions = bare(encoder.artifact.files, flags.threads)
    files, names = jpegs(flags.pictures, max(flags.batches)), titles(max(flags.batches))
    pictured = {size: cells_of(encoder, [Item(str(n), image=files[n]) for n in range(size)], sessions) for size in flags.batches}
    print(report("pictures", "images", encoder, pictured, flags.rounds), "\n")
    titled = {size: cells_of(encoder, [Item(str(n), title=names[n]) for n in range(size)], sessions) for size in flags.batches}
    print(report("titles", "texts", encoder, titled, flags.rounds), "\n")
    if flags.text_artifact is None or flags.text_model is None:
        print("sentence-transformers was not measured: name --text-artifact and --text-model")
        return 0
    other = Encoder.load(flags.text_artifact, threads=flags.threads)
    plain = bare(other.artifact.files, flags.threads)
    import torch

    torch.set_num_threads(flags.threads)
    same = {}
    for size in flags.batches:
        items = [Item(str(n), title=names[n]) for n in range(size)]
        same[size] = cells_of(other, items, plain) | peer_cells(other, flags.text_model, items)
    print(report("titles, the peer's weights", "texts", other, same, flags.rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
