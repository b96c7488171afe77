"""Reads what a run left in the stores and topics, with handles of its own, into `Evidence`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaConsumer, TopicPartition

from moontide import changes, names, views
from moontide.embeddings import Embeddings
from moontide.order import WriteOrder
from moontide.records import embeddings_of
from moontide.stores import online_store, vector_index
from moontide.stores.base import Status
from moontide.stores.offline import OfflineTables
from tests.faults.stream.evidence import CLAIM, Behaviour, Dead, History, Row, Views
from tests.faults.stream.ledger import HEADER
from tests.faults.stream.workload import sha

_NEIGHBOURS = 10
_CHUNK = 1_000


def rows_of(table):
    """Item -> `Row` of a table of embedding rows."""
    table = table.set_column(
        table.schema.get_field_index("event_timestamp"), "event_timestamp", table["event_timestamp"].cast(pa.int64())
    )
    table = table.set_column(table.schema.get_field_index("encoded_at"), "encoded_at", table["encoded_at"].cast(pa.int64()))
    found = {}
    for r in table.to_pylist():
        order = WriteOrder(r["source_version"], r["event_timestamp"], r["encoded_at"], bytes.fromhex(r["content_hash"]))
        found[r["item_id"]] = Row(
            r["source_version"], r["event_timestamp"], r["content_hash"], r["deleted"], r["codes"], r["space"], order.pack()
        )
    return found


def scanned(online, view):
    return [entity for page in online.scan(view) for entity in page]


def space_views(online, index, offline, space):
    """The four views of one space, and its offline history."""
    view = views.embedding_view(space)
    ids = sorted(set(scanned(online, view)))
    made = Views(space.id)
    tables = [online.read_records(view, ids[at : at + _CHUNK]) for at in range(0, len(ids), _CHUNK)]
    for table in tables:
        made.online |= rows_of(table)
    for table in offline.latest(view):
        made.offline |= rows_of(table)
    for table in offline.scan(view, ["item_id", "source_version", "content_hash", "deleted"]):
        made.history += [History(*row.values()) for row in table.to_pylist()]
    for file in offline.tree.files(offline.folder(view)):
        with offline.tree.open(file) as source:
            made.offline_rows += source.metadata.num_rows if isinstance(source, pq.ParquetFile) else 0
    index.ensure(space)
    made.tokens = {item: token for page in index.scan(space) for item, token in page}
    by_id = dict(zip(ids, index.tokens(space, ids), strict=True)) if ids else {}
    if {i: t for i, t in by_id.items() if t is not None} != {i: t for i, t in made.tokens.items() if i in by_id}:
        made.tokens |= {f"{i}!get": t or b"" for i, t in by_id.items() if t != made.tokens.get(i)}
    made.found = found_by_search(index, space, tables, made)
    made.dirty = {mark.item_id for mark in online.dirty(space, 100_000)}
    return made


def found_by_search(index, space, tables, made):
    """Items whose own vector leads to them; of a deleted one, the vector it had last."""
    found = set()
    gone = {item for item, row in made.online.items() if row.deleted}
    last = {row.item: row.content_hash for row in made.history if row.item in gone and not row.deleted}
    queries = [embeddings_of(space, table) for table in tables]
    if last:
        from tests.faults.stream.checks import stub_codes

        codes = np.frombuffer(b"".join(stub_codes(space, list(last.values()))), np.int8).reshape(-1, space.dim)
        queries.append(Embeddings.from_codes(space, codes, np.full(len(codes), 1 / 127, np.float32), ids=list(last)))
    for query in queries:
        query = query.take(np.flatnonzero(query.present))
        if len(query):
            hits = index.search(space, query, _NEIGHBOURS)
            for row, item in enumerate(query.ids):
                near = [i for i, score in zip(hits.ids[row], hits.scores[row], strict=False) if score > 0.9999]
                if item in near:
                    found.add(item)
    return found


def read_stores(evidence, settings, live):
    """Fill in everything the stores say."""
    online, index = online_store(settings), vector_index(settings)
    offline = OfflineTables(settings.offline_root)
    try:
        for entry in live.spaces:
            evidence.views[entry.space.id] = space_views(online, index, offline, entry.space)
        for name, into in ((names.USER_SEQUENCE, evidence.sequences), (names.USER_SERVED, evidence.served)):
            view = views.user_sequence(name)
            users = sorted(set(scanned(online, view)))
            for user, sequence in zip(users, online.read_sequences(view, users), strict=True):
                into[user] = tuple(Behaviour(*b) for b in sequence.behaviours)
                if name == names.USER_SEQUENCE:
                    evidence.versions[user] = sequence.version
        for spec in live.simtiers:
            view = views.simtier_view(spec)
            pairs = [tuple(pair) for pair in scanned(online, view)]
            for at in range(0, len(pairs), _CHUNK):
                part = pairs[at : at + _CHUNK]
                table = online.read_columns(view, part, ["sequence_version"])
                times = table["event_timestamp"].cast(pa.int64()).to_pylist()
                versions = table["sequence_version"].to_pylist()
                status = table["status"].to_pylist()
                evidence.tiers |= {
                    p: (v, t) for p, v, t, s in zip(part, versions, times, status, strict=True) if s == Status.PRESENT
                }
        features = views.item_features()
        ids = sorted(set(scanned(online, features)))
        if ids:
            table = online.read_columns(features, ids, ["price"])
            evidence.prices = dict(zip(ids, table["price"].to_pylist(), strict=True))
        evidence.length = settings.sequence_length
    finally:
        online.close()
        index.close()


def read_topic(bootstrap, topic):
    """Every record that is in a topic now, by partition in offset order, and (start, end) of each partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, max_partition_fetch_bytes=32 << 20, bootstrap_timeout_ms=10_000
    )
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        if not partitions:
            return [], {}
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        records = []
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            for some in consumer.poll(timeout_ms=500, max_records=5_000).values():
                records += some
        return records, {tp.partition: (starts[tp], ends[tp]) for tp in partitions}
    finally:
        consumer.close(autocommit=False)


def send_of(record):
    """Which send a record is, by the harness' own header."""
    return next((value.decode() for name, value in record.headers or () if name == HEADER), None)


def dead_of(record):
    """A dead letter's origin and digest."""
    headers = {name: value or b"" for name, value in record.headers}
    text = {name: headers.get(f"__connect.errors.{name}", b"").decode() for name in ("topic", "partition", "offset")}
    digest = sha(record.key, record.value)
    claim = headers.get("__moontide.errors.value_sha256")
    return Dead(
        text["topic"],
        int(text["partition"] or -1),
        int(text["offset"] or -1),
        f"{CLAIM}{claim.decode()}" if claim else digest,
        headers.get("__moontide.errors.reason", b"").decode(),
    )


def change_rows(records, space):
    """Last value of each key of the change stream, as `Row`s."""
    last = {}
    for record in records:
        space_id, item = changes.split_key(record.key)
        if space_id == space.id:
            last[item] = record.value
    found = {}
    for item, value in last.items():
        if value is None:
            continue
        made = changes.unpack_changes(space, [item], [value])
        order = made.order(0)
        codes = made.embeddings.codes[0].tobytes()
        found[item] = Row(
            order.source_version,
            order.event_timestamp,
            order.content_hash.hex(),
            bool(made.deleted[0]),
            codes,
            space.id,
            order.pack(),
        )
    return found
