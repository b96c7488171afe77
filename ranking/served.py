"""A trained ranking model as it is served: ONNX Runtime over features that a `RankingClient` reads. No torch.

C candidates, L behaviours, D dims, N tiers, F scalars.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from encoders.artifact_folder import parse_object, read_file
from encoders.onnx_guard import check_model
from encoders.sessions import open_session
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.spaces import describe
from ranking.contract import FILES, Contract, contract_of, digest_of
from ranking.served_inputs import FROM_CATALOG, FROM_SEQUENCE, inputs_of

#: A request whose user acts between two reads is read again, at most so often.
READS: Final = 3
MAX_MODEL_BYTES: Final = 2 << 30
MAX_VOCABULARY_BYTES: Final = 512 << 20


class FeatureClient(Protocol):
    """What is asked of `serving.RankingClient`, which this package does not import."""

    def features(self, user_id: str, item_ids: Sequence[str], *, service: str) -> pa.Table:
        """Vectors, tiers and fields of candidates."""

    def sequence(self, user_id: str, *, service: str, length: int | None) -> pa.Table:
        """Behaviours with their vectors, newest last."""


@dataclass(frozen=True, slots=True)
class Request:
    """Everything a model reads of one request, by the name of its input (`ranking.batch.Batch`), one group each."""

    item_ids: tuple[str, ...]
    feeds: Mapping[str, NDArray[Any]]
    sequence_version: int


class RankingModel:
    """Scores candidates. Thread-safe; one per process is enough.

    Args:
        contract: what the model was trained on.
        model: ONNX bytes.
        rows: row of the item table by item id.
        threads: of one call.
    """

    def __init__(self, contract: Contract, model: bytes, rows: Mapping[str, int], *, threads: int = 1) -> None:
        self.contract = contract
        self._rows = rows
        self._session = open_session(model, threads=threads, name=FILES.model)
        self.inputs = frozenset(put.name for put in self._session.get_inputs())

    @classmethod
    def load(cls, folder: str | Path, *, threads: int = 1) -> RankingModel:
        """Read a folder that `ranking.export` wrote.

        Raises:
            Misconfigured: a file is missing, malformed, too large or not the manifest's, or the model is refused.
        """
        folder = Path(folder)
        body = parse_object(_read(folder / FILES.manifest, 1 << 20), FILES.manifest)
        model = _read(folder / FILES.model, MAX_MODEL_BYTES)
        vocabulary = _read(folder / FILES.vocabulary, MAX_VOCABULARY_BYTES)
        got = digest_of(body, {FILES.model: model, FILES.vocabulary: vocabulary})
        if body.get("digest") != got:
            raise Misconfigured(
                f"ranking model {folder}: expected digest {body.get('digest')}, got {got}; the files are not those of the "
                "manifest: copy the whole folder again, or export again"
            )
        check_model(model, name=FILES.model)
        return cls(contract_of(body, folder), model, _vocabulary(vocabulary, folder), threads=threads)

    def score(
        self,
        client: FeatureClient,
        user_id: str,
        item_ids: Sequence[str],
        *,
        scalars: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    ) -> NDArray[np.float32]:
        """(C,) float32 logits in the order of `item_ids`; their sigmoid is the probability that was trained.

        Raises:
            As `read`.
        """
        return self.logits(self.read(client, user_id, item_ids, scalars=scalars))

    def read(
        self,
        client: FeatureClient,
        user_id: str,
        item_ids: Sequence[str],
        *,
        scalars: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    ) -> Request:
        """Features of one request, from one version of the user's sequence.

        Args:
            client: a `serving.RankingClient`.
            user_id: an unknown user has no history.
            item_ids: C candidates, 0 is fine. An item that training has not seen shares one row of the item table.
            scalars: (C,) values, as in the training set, of every scalar of the contract that neither `FROM_SEQUENCE` nor
                `FROM_CATALOG` names.

        Raises:
            SpaceMismatch: the service reads vectors of another encoder than the model was trained on.
            Misconfigured: the service counts other tiers or lacks an item field, or a scalar is missing, unknown or of another
                length.
            Transient: the user's sequence changed between two reads, `READS` times.
        """
        ids = tuple(item_ids)
        given = self._given(scalars or {}, len(ids))
        service = self.contract.service
        whole = any(name in FROM_SEQUENCE for name in self.contract.scalars)
        for _ in range(READS):
            table = client.features(user_id, ids, service=service)
            seen = client.sequence(user_id, service=service, length=None if whole else self.contract.length)
            version = (table.schema.metadata or {}).get(b"sequence_version")
            if version == (seen.schema.metadata or {}).get(b"sequence_version"):
                self._require_same(table)
                return Request(ids, inputs_of(self.contract, self._rows, ids, (table, seen), given), int(version or 0))
        raise Transient(
            f"user {user_id}: expected one sequence version in two reads, got another each of {READS} times; ask again"
        )

    def logits(self, request: Request) -> NDArray[np.float32]:
        """(C,) float32 logits of a request."""
        if not request.item_ids:
            return np.zeros(0, np.float32)
        feeds = {name: request.feeds[name] for name in self.inputs}
        logits: NDArray[np.float32] = self._session.run(None, feeds)[0][0]
        return logits

    def _given(self, scalars: Mapping[str, NDArray[np.floating[Any]]], count: int) -> dict[str, NDArray[np.float32]]:
        wanted = [name for name in self.contract.scalars if name not in (*FROM_SEQUENCE, *FROM_CATALOG)]
        if set(scalars) != set(wanted):
            raise Misconfigured(
                f"ranking model {self.contract.model}: expected scalars {sorted(wanted)} from the caller, got {sorted(scalars)}; "
                "pass the ones the store does not hold, or serve a model that was trained without them"
            )
        values = {name: np.asarray(scalars[name], np.float32) for name in wanted}
        wrong = {name: rows.shape for name, rows in values.items() if rows.shape != (count,)}
        if wrong:
            raise Misconfigured(f"ranking model {self.contract.model}: expected scalars of shape ({count},), got {wrong}")
        return values

    def _require_same(self, table: pa.Table) -> None:
        said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        space = self.contract.space
        dim = table.schema.field("embedding").type.list_size
        if (said.get("space"), said.get("encoder_digest"), dim) != (space.id, space.encoder_digest, space.dim):
            raise SpaceMismatch(
                f"service {self.contract.service}: expected space {describe(space)}, got {said.get('space')} (dim {dim}, encoder "
                f"{said.get('encoder_digest', '')[:15] or 'unnamed'}); serve the model trained on that space, or point the "
                "service at the model's"
            )
        if "counts" in self.inputs and said.get("simtier") != self.contract.simtier:
            raise Misconfigured(
                f"service {self.contract.service}: expected tiers {self.contract.simtier}, got {said.get('simtier')}; "
                "serve the model with the tiers it was trained on"
            )


def _read(path: Path, limit: int) -> bytes:
    if path.is_file() and path.stat().st_size > limit:
        raise Misconfigured(f"ranking model file {path}: expected at most {limit} bytes, got {path.stat().st_size}")
    return read_file(path, expected=(FILES.manifest, FILES.model, FILES.vocabulary))


def _vocabulary(data: bytes, folder: Path) -> dict[str, int]:
    try:
        table = pq.read_table(io.BytesIO(data), columns=["item_id", "row"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Misconfigured(f"{folder / FILES.vocabulary}: expected Parquet with item_id and row, got: {error}") from error
    return dict(zip(table.column("item_id").to_pylist(), table.column("row").to_pylist(), strict=True))
