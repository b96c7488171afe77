"""A ranking service that reads its features from a moontide server: POST /rank {"user_id", "item_ids"} -> the items, best first.

    MOONTIDE_HOME=build/demo/home python -m serving --port 8080 &
    python examples/ranking_service.py --features http://127.0.0.1:8080 --port 8090 &
    curl -s http://127.0.0.1:8090/rank -H 'Content-Type: application/json' \
        -d '{"user_id": "u:12362", "item_ids": ["or:22423", "or:85123A", "lu:MH07-Green"]}'

The score stands for a model: the mean cosine of the candidate to what the user did lately, read off the tiers. Tier n of N covers
the cosines around (2n + 1) / N - 1. A candidate without history or vector scores 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import uuid

import numpy as np
import pyarrow as pa
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from moontide.client import AsyncClient
from moontide.errors import MoontideError, Transient


class Asked(BaseModel):  # noqa: D101
    user_id: str
    item_ids: list[str]


def scores(features: pa.Table) -> np.ndarray:
    """(C,) mean cosine to the history."""
    counts = np.stack(features["counts"].to_numpy()) if len(features) else np.zeros((0, 2))
    centres = (2 * np.arange(counts.shape[1]) + 1) / counts.shape[1] - 1
    return counts @ centres / np.maximum(counts.sum(axis=1), 1)


async def retrieve(item_ids: list[str]) -> list[str]:
    """Stands for retrieval: 20 ms, in which the user's side is read already."""
    await asyncio.sleep(0.02)
    return item_ids


def ranking_app(moontide: AsyncClient) -> FastAPI:
    """The service."""
    app = FastAPI()

    async def prefetch(user_id: str, request_id: str) -> None:
        with contextlib.suppress(MoontideError):  # features() then reads everything itself
            await moontide.prefetch(user_id, request_id=request_id)

    @app.post("/rank")
    async def rank(asked: Asked) -> dict[str, object]:
        request_id = uuid.uuid4().hex
        item_ids, _ = await asyncio.gather(retrieve(asked.item_ids), prefetch(asked.user_id, request_id))
        try:
            features = await moontide.features(asked.user_id, item_ids, request_id=request_id)
        except Transient:  # rather the order of retrieval than no answer
            return {"item_ids": item_ids, "scores": None}
        found = scores(features)
        order = np.argsort(-found, kind="stable")
        return {"item_ids": [item_ids[n] for n in order], "scores": found[order].tolist()}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A ranking service.")
    parser.add_argument("--features", nargs="+", default=["http://127.0.0.1:8080"], help="moontide servers")
    parser.add_argument("--port", type=int, default=8090)
    args = parser.parse_args()
    uvicorn.run(ranking_app(AsyncClient(args.features, timeout=0.2)), port=args.port)
