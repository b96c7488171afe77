"""Our clients against a broker with TLS and passwords: what is let in, and what is said to who is not."""

import logging
import subprocess

import pytest

from moontide.errors import Misconfigured
from moontide.settings import load_settings
from streaming import clients
from tests.kafka_broker import KafkaBroker, missing

pytestmark = pytest.mark.integration
CANARY = "c4n4ry-of-a-password"
STORE = "store-password"


def keytool(*words, folder):
    done = subprocess.run(["keytool", *words], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def make_certificates(folder):
    """A broker's key for 127.0.0.1 in ``broker.p12``, its self-signed certificate in ``ca.pem``."""
    store = ["-keystore", "broker.p12", "-storetype", "PKCS12", "-storepass", STORE, "-alias", "broker"]
    name = ["-dname", "CN=broker", "-ext", "san=ip:127.0.0.1"]
    keytool("-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", *name, "-validity", "2", *store, folder=folder)
    keytool("-exportcert", "-rfc", "-file", "ca.pem", *store, folder=folder)


def properties(folder):
    """PLAIN and SCRAM are asked for on each SASL listener; TLS has the same key on each."""
    login = "org.apache.kafka.common.security.{}.{}LoginModule required".format
    plain = login("plain", "Plain") + f' user_moon="{CANARY}";'
    scram = login("scram", "Scram") + ";"
    found = {
        "ssl.keystore.location": folder / "broker.p12",
        "ssl.keystore.password": STORE,
        "ssl.keystore.type": "PKCS12",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
    }
    for listener in ("secure", "clear"):
        found[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        found[f"listener.name.{listener}.scram-sha-256.sasl.jaas.config"] = scram
    return found


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """Broker, port of SASL_SSL, port of SASL_PLAINTEXT, file of the certificate."""
    if missing():
        pytest.fail(missing())
    folder = tmp_path_factory.mktemp("secured")
    make_certificates(folder)
    broker = KafkaBroker(folder / "kafka", properties=properties(folder))
    secure, clear = broker.listen("SECURE", protocol="SASL_SSL"), broker.listen("CLEAR", protocol="SASL_PLAINTEXT")
    broker.start()
    admin = broker.admin()
    admin.alter_user_scram_credentials([scram_user("moon", CANARY)])
    admin.close()
    broker.create_topic("safe")
    yield broker, secure, clear, folder / "ca.pem"
    broker.kill()


def scram_user(name, password):
    from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

    return UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_256, password)


def settings_of(port, ca, **changed):
    given = {
        "kafka_servers": f"127.0.0.1:{port}",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_username": "moon",
        "kafka_password": CANARY,
        "kafka_ca_file": ca,
        **changed,
    }
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def without_sasl(protocol):
    return {
        "kafka_security_protocol": protocol,
        "kafka_sasl_mechanism": None,
        "kafka_username": "",
        "kafka_password": "",
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_events_pass_over_tls_with_a_password(secured, mechanism, caplog):
    _, port, _, ca = secured
    caplog.set_level(logging.DEBUG)
    settings = settings_of(port, ca, kafka_sasl_mechanism=mechanism, stream_group=f"g-{mechanism}")
    producer = clients.producer(settings)
    sent = producer.send("safe", mechanism.encode()).get(20)
    producer.close()
    consumer = clients.consumer(settings, topics=["safe"])
    got = []
    for _ in range(100):
        got += [record for records in consumer.poll(timeout_ms=200).values() for record in records]
        if got and got[-1].offset >= sent.offset:
            break
    consumer.commit()
    consumer.close()
    assert (got[-1].offset, got[-1].value) == (sent.offset, mechanism.encode())
    assert CANARY not in caplog.text


@pytest.mark.parametrize("make", [clients.consumer, clients.producer, clients.admin])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password_is_said_at_once(secured, make, mechanism, caplog):
    _, port, _, ca = secured
    caplog.set_level(logging.DEBUG)
    wrong = f"not-{CANARY}"
    with pytest.raises(Misconfigured, match="SaslAuthenticationFailedError; check .*_PASSWORD") as caught:
        make(settings_of(port, ca, kafka_sasl_mechanism=mechanism, kafka_password=wrong))
    assert CANARY not in f"{caught.value} {caplog.text}"


@pytest.fixture
def impatient(monkeypatch):
    """A connection that cannot be made is tried for 1 s instead of 10."""
    monkeypatch.setattr("moontide.kafka.connection._BOOTSTRAP_MS", 1_000)


def test_plaintext_to_a_listener_with_tls(secured, impatient):
    _, port, _, _ = secured
    with pytest.raises(Misconfigured, match="speaks PLAINTEXT, got TLS there; set MOONTIDE_KAFKA_SECURITY_PROTOCOL to SSL"):
        clients.consumer(settings_of(port, None, **without_sasl("PLAINTEXT")))


def test_tls_to_a_listener_without(secured, impatient):
    broker, _, _, ca = secured
    with pytest.raises(Misconfigured, match="speaks SSL, got no TLS there"):
        clients.consumer(settings_of(broker.port, ca, **without_sasl("SSL")))


def test_a_certificate_nobody_vouches_for(secured, impatient):
    _, port, _, _ = secured
    with pytest.raises(Misconfigured, match="self-signed certificate; check MOONTIDE_KAFKA_CA_FILE"):
        clients.consumer(settings_of(port, None))


def test_a_certificate_of_another_host(secured, impatient):
    _, port, _, ca = secured
    with pytest.raises(Misconfigured, match="Hostname mismatch"):
        clients.consumer(settings_of(port, ca, kafka_servers=f"localhost:{port}"))


def test_a_mechanism_the_broker_does_not_offer(secured):
    _, port, _, ca = secured
    with pytest.raises(Misconfigured, match="UnsupportedSaslMechanismError"):
        clients.admin(settings_of(port, ca, kafka_sasl_mechanism="SCRAM-SHA-512"))


def test_a_password_in_the_clear_only_on_loopback(secured):
    _, _, port, _ = secured
    settings = settings_of(port, None, kafka_security_protocol="SASL_PLAINTEXT")
    admin = clients.admin(settings)
    assert "safe" in admin.list_topics()
    admin.close()
    with pytest.raises(Misconfigured, match="expected SSL or SASL_SSL for kafka.example"):
        clients.admin(settings_of(port, None, kafka_security_protocol="SASL_PLAINTEXT", kafka_servers=f"kafka.example:{port}"))
