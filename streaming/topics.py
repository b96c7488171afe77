"""The topics of the nearline path: what each needs, and making them. ``python -m streaming.topics --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError

from moontide import names
from moontide.errors import MoontideError
from moontide.kafka.errors import translated
from moontide.settings import Settings, load_settings
from streaming import clients

PARTITIONS: Final = 8
REPLICATION: Final = 1
_MAX_BYTES: Final = "max.message.bytes"


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic after `ensure_topics`.

    Attributes:
        name: of the topic.
        created: whether this call made it.
        differs: one line per setting of an existing topic that is not as asked: expected, got, what to do. It was not changed.
    """

    name: str
    created: bool
    differs: tuple[str, ...] = ()


def topic_configs(settings: Settings) -> dict[str, dict[str, str]]:
    """Kafka's own settings of each topic, by its name."""
    event = {_MAX_BYTES: str(clients.event_bytes(settings))}
    return {
        names.TOPIC_ITEM_EVENTS: event,
        names.TOPIC_BEHAVIOUR_EVENTS: event,
        names.TOPIC_ITEM_EMBEDDINGS: {"cleanup.policy": "compact"},
        # Dead letters keep the time of their events, whatever it is; retention would count by it.
        names.TOPIC_DEAD_LETTERS: {
            _MAX_BYTES: str(clients.message_bytes(settings)),
            "retention.ms": "-1",
            "message.timestamp.after.max.ms": str(2**63 - 1),
        },
    }


def ensure_topics(
    admin: KafkaAdminClient, settings: Settings, *, partitions: int = PARTITIONS, replication: int = REPLICATION
) -> list[TopicState]:
    """Make the topics that are missing; those that exist are compared and left as they are.

    Raises:
        Misconfigured: no right to make topics, or more replicas than brokers.
        Transient: the brokers do not answer.
    """
    with translated("making topics"):
        return [_ensure(admin, name, config, partitions, replication) for name, config in topic_configs(settings).items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the topics and print one line each; 0 when all are as asked, 1 when one differs or on an error."""
    args = _parser().parse_args(argv)
    try:
        settings = load_settings(**({"kafka_servers": args.servers} if args.servers else {}))
        admin = clients.admin(settings)
        try:
            states = ensure_topics(admin, settings, partitions=args.partitions, replication=args.replication)
        finally:
            admin.close()
    except MoontideError as error:
        sys.stderr.write(f"moontide: {error}\n")
        return 1
    sys.stdout.write(f"Kafka on {settings.kafka_servers}\n")
    for state in states:
        said = "created" if state.created else "; ".join(state.differs) or "exists"
        sys.stdout.write(f"  {state.name}: {said}\n")
    return int(any(state.differs for state in states))


def _ensure(admin: KafkaAdminClient, name: str, config: Mapping[str, str], partitions: int, replication: int) -> TopicState:
    wanted = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(config)}
    # Asked for first: a client may have the right to look and not the right to make.
    if name not in admin.list_topics():
        try:
            admin.create_topics({name: wanted})
            return TopicState(name, created=True)
        except TopicAlreadyExistsError:
            pass  # made by another process meanwhile
    return TopicState(name, created=False, differs=tuple(_differences(admin, name, config, partitions, replication)))


def _differences(admin: KafkaAdminClient, name: str, config: Mapping[str, str], partitions: int, replication: int) -> list[str]:
    found = admin.describe_topics([name])[0]["partitions"]
    # Each has the same number of replicas unless somebody is moving them.
    replicas = min((len(partition["replica_nodes"]) for partition in found), default=0)
    differs = []
    if len(found) != partitions:
        differs.append(f"expected {partitions} partitions, got {len(found)}; give --partitions {len(found)} if that is meant")
    if replicas != replication:
        differs.append(f"expected {replication} replicas, got {replicas}; give --replication {replicas} if that is meant")
    resource = ConfigResource(ConfigResourceType.TOPIC, name, list(config))
    actual = admin.describe_configs([resource], config_filter="all")["topic"][name]
    for key, value in config.items():
        got = actual[key]["value"]
        if not _fits(key, value, got):
            differs.append(f"expected {key} {value}, got {got}; change it with your Kafka's kafka-configs")
    return differs


def _fits(key: str, wanted: str, got: str) -> bool:
    return int(got) >= int(wanted) if key == _MAX_BYTES else wanted == got


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streaming.topics",
        description="Make the missing topics; existing ones are compared, never changed. Settings: MOONTIDE_KAFKA_*.",
    )
    parser.add_argument("--servers", help="host:port,...; default: MOONTIDE_KAFKA_SERVERS")
    parser.add_argument("--partitions", type=_positive, default=PARTITIONS, help="of each topic that is made (default: 8)")
    parser.add_argument("--replication", type=_positive, default=REPLICATION, help="replicas of each partition (default: 1)")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
