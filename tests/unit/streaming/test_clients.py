"""Which settings the Kafka clients accept, what they are made of, and that no secret shows."""

import logging
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors

from moontide.errors import Misconfigured, Transient
from moontide.kafka.errors import translated
from moontide.settings import load_settings
from streaming import clients

pytestmark = pytest.mark.unit
CANARY = "c4n4ry-of-a-password"
SASL = {"kafka_sasl_mechanism": "PLAIN", "kafka_username": "moon", "kafka_password": CANARY}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"kafka_servers": "localhost:9092, [::1]:9093,127.8.0.1:1"},
        {"kafka_servers": "kafka:29092", "kafka_plaintext_hosts": ("kafka",)},
        {"kafka_servers": "far.example:9092", "kafka_security_protocol": "SSL"},
        {"kafka_servers": "far.example:9092", "kafka_security_protocol": "SASL_SSL", **SASL},
        {"kafka_security_protocol": "SASL_PLAINTEXT", **SASL},
    ],
)
def test_safe_settings_pass(changed):
    clients.require_safe(load_settings(**changed))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kafka_servers": "far.example:9092"}, "far.example"),
        ({"kafka_servers": "127.0.0.1:9092,far.example:9092"}, "far.example"),
        ({"kafka_servers": "localhost.far.example:9092"}, "localhost.far.example"),
        ({"kafka_servers": "kafka2:29092", "kafka_plaintext_hosts": ("kafka",)}, "kafka2"),
        ({"kafka_servers": "far.example:9092", "kafka_security_protocol": "SASL_PLAINTEXT", **SASL}, "far.example"),
        ({"kafka_servers": "127.0.0.1"}, "host:port"),
        ({"kafka_servers": " , "}, "host:port"),
        ({"kafka_servers": "127.0.0.1:65536"}, "host:port"),
        ({"kafka_servers": "127.0.0.1:0"}, "host:port"),
        ({"kafka_servers": "127.0.0.1:\u0669"}, "host:port"),
        ({"kafka_servers": "kafka://127.0.0.1:9092"}, "host:port"),
        ({"kafka_security_protocol": "SASL_SSL", **SASL, "kafka_sasl_mechanism": None}, "SASL_MECHANISM"),
        ({"kafka_security_protocol": "SASL_SSL", **SASL, "kafka_username": ""}, "USERNAME"),
        ({"kafka_security_protocol": "SASL_SSL", **SASL, "kafka_password": ""}, "PASSWORD"),
        (SASL, "SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SSL", **SASL}, "SECURITY_PROTOCOL"),
        ({"kafka_ca_file": "ca.pem"}, "TLS files"),
        ({"kafka_security_protocol": "SSL", "kafka_cert_file": "c.pem"}, "KEY_FILE"),
    ],
)
def test_unsafe_settings_are_refused_before_anything_is_connected(changed, named):
    settings = load_settings(**changed)
    for make in (clients.require_safe, clients.consumer, clients.producer, clients.admin):
        with pytest.raises(Misconfigured) as caught:
            make(settings)
        assert named in str(caught.value)
        assert CANARY not in str(caught.value)


@given(st.ip_addresses())
def test_of_addresses_only_loopback_may_be_plain(address):
    text = f"[{address}]" if address.version == 6 else str(address)
    settings = load_settings(kafka_servers=f"{text}:9092")
    if address.is_loopback:
        clients.require_safe(settings)
    else:
        with pytest.raises(Misconfigured):
            clients.require_safe(settings)


@pytest.fixture
def made(monkeypatch):
    """What each client would be given."""
    seen = {}

    def fake(real):
        class Fake:
            def __init__(self, **config):
                assert set(config) <= set(real.DEFAULT_CONFIG)
                seen.update(config)

            def subscribe(self, topics, listener=None):
                seen["topics"] = topics

        return Fake

    for name, real in (
        ("JoiningConsumer", KafkaConsumer),
        ("RecoveringProducer", KafkaProducer),
        ("KafkaAdminClient", KafkaAdminClient),
    ):
        monkeypatch.setattr(clients, name, fake(real))
    return seen


def test_a_consumer_commits_nothing_by_itself_and_starts_at_the_oldest(made):
    clients.consumer(load_settings(stream_poll_records=7, stream_session_ms=3_000))
    assert made["enable_auto_commit"] is False
    assert made["auto_offset_reset"] == "earliest"
    assert made["isolation_level"] == "read_committed"
    assert made["max_poll_records"] == 7
    assert made["heartbeat_interval_ms"] == 1_000
    assert made["group_instance_id"] is None
    assert made["topics"] == clients.EVENT_TOPICS


def test_a_consumer_subscribes_to_what_it_is_told_or_to_nothing(made):
    clients.consumer(load_settings(), topics=["a"])
    assert made.pop("topics") == ("a",)
    clients.consumer(load_settings(), topics=[], group_id=None)
    assert "topics" not in made
    assert made["group_id"] is None


@pytest.mark.parametrize("size", [1_024, 8 << 20, 64 << 20])
def test_the_largest_event_passes_through_every_client(made, size):
    settings = load_settings(stream_event_bytes=size)
    clients.consumer(settings)
    clients.producer(settings)
    assert min(made["max_partition_fetch_bytes"], made["fetch_max_bytes"], made["max_request_size"]) > clients.event_bytes(
        settings
    )
    assert clients.event_bytes(settings) > size


def test_a_producer_waits_for_all_replicas_and_repeats_nothing(made):
    clients.producer(load_settings())
    assert (made["acks"], made["enable_idempotence"], made["allow_auto_create_topics"]) == ("all", True, False)


def test_tls_is_always_verified(made):
    for protocol, more in (("SSL", {}), ("SASL_SSL", SASL)):
        clients.admin(load_settings(kafka_security_protocol=protocol, kafka_servers="far.example:9093", **more))
        assert made["ssl_check_hostname"] is True
        assert made["ssl_context"].check_hostname
        assert made["ssl_context"].verify_mode == ssl.CERT_REQUIRED
        assert made["ssl_context"].minimum_version >= ssl.TLSVersion.TLSv1_2


def test_credentials_do_not_show_where_a_client_logs_its_configuration(made):
    clients.admin(load_settings(kafka_security_protocol="SASL_SSL", **SASL))
    assert made["sasl_plain_password"] == CANARY
    assert CANARY not in f"{made}"


def test_a_log_at_debug_has_no_password(caplog):
    caplog.set_level(logging.DEBUG)
    settings = load_settings(kafka_security_protocol="SASL_PLAINTEXT", kafka_servers="127.0.0.1:1", **SASL)
    for make in (clients.admin, clients.consumer, clients.producer):
        with pytest.raises(Transient) as caught:
            make(settings, bootstrap_timeout_ms=200)
        assert CANARY not in str(caught.value)
    assert "Bootstrap failed" in caplog.text
    assert CANARY not in caplog.text


def test_files_that_are_no_certificates_are_named_by_their_variables(tmp_path):
    for path in (tmp_path / "absent.pem", tmp_path / "empty.pem"):
        with pytest.raises(Misconfigured, match="MOONTIDE_KAFKA_CA_FILE"):
            clients.tls_context(load_settings(kafka_security_protocol="SSL", kafka_ca_file=path))
        (tmp_path / "empty.pem").touch()


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (errors.SaslAuthenticationFailedError(CANARY), Misconfigured, "PASSWORD"),
        (errors.TopicAuthorizationFailedError(), Misconfigured, "access rules"),
        (errors.FencedInstanceIdError(), Misconfigured, "MOONTIDE_STREAM_INSTANCE"),
        (errors.InvalidSessionTimeoutError(), Misconfigured, "MOONTIDE_STREAM_SESSION_MS"),
        (errors.InconsistentGroupProtocolError(), Misconfigured, "MOONTIDE_STREAM_GROUP"),
        (errors.MessageSizeTooLargeError(), Misconfigured, "max.message.bytes"),
        (errors.InvalidTopicError(), Misconfigured, "InvalidTopicError"),
        (errors.KafkaTimeoutError(), Transient, "KafkaTimeoutError"),
        (errors.CommitFailedError(), Transient, "CommitFailedError"),
        (errors.NotLeaderForPartitionError(), Transient, "NotLeaderForPartitionError"),
        (ConnectionResetError(), Transient, "ConnectionResetError"),
    ],
)
def test_what_kafka_raises_is_one_of_our_kinds(raised, kind, says):
    with pytest.raises(kind, match=says) as caught, translated("testing"):
        raise raised
    assert "testing" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_errors_of_others_pass_through():
    with pytest.raises(KeyError), translated("testing"):
        raise KeyError("x")
