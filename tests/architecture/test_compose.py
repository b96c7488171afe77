"""docker-compose.yml against the Compose specification, and against the house rules for what it may hold."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from moontide.settings import Settings

pytestmark = pytest.mark.architecture
ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


def compose_schema() -> dict:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(schema.read_text())


def test_it_is_valid_compose():
    schema = compose_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(
    "broken", [{"services": {"a": {"imagee": "x"}}}, {"services": {"a": {"healthcheck": {"test": 3}}}}, {"service": {}}]
)
def test_the_schema_refuses_what_is_not_compose(broken):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, compose_schema())


def test_every_part_of_the_platform_is_there():
    services = [
        "kafka",
        "etcd",
        "minio",
        "milvus",
        "redis",
        "spark-master",
        "spark-worker",
        "feature-server",
        "backfill",
        "consumer",
    ]
    assert set(services) <= set(SERVICES)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned(name):
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image and re.search(r"\d", tag), f"{name}: {SERVICES[name]['image']} floats"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_on_loopback(name):
    for port in SERVICES[name].get("ports", []):
        assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port} beyond this host"


@pytest.mark.parametrize("name", sorted(n for n, s in SERVICES.items() if s.get("restart") == "unless-stopped"))
def test_long_lived_services_have_a_healthcheck(name):
    assert SERVICES[name]["healthcheck"]["test"]


def test_who_waits_for_health_waits_for_a_service_that_reports_it():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}, which is not there"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} would wait for {other} for ever"
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"


def test_volumes_are_declared_and_used():
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert {v for v in used if not v.startswith(".")} == set(COMPOSE["volumes"])


def test_no_secret_is_written_down():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|ROOT_USER|REDIS_URL", key):
                assert "${" in str(value) and ":?" in str(value), f"{name}: {key} must come from .env"
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    assert {line.partition("=")[0] for line in lines} == asked
    assert all(line.endswith("=") for line in lines), "the example must not suggest values"


def test_our_processes_are_given_settings_that_exist():
    known = {f"MOONTIDE_{field.upper()}" for field in Settings.model_fields}
    given = {k for s in SERVICES.values() for k in s.get("environment", {}) if k.startswith("MOONTIDE_")}
    assert given and given <= known


def test_the_containers_have_the_same_repository_but_for_the_online_store():
    ours = yaml.safe_load((ROOT / "docker" / "feature_store.yaml").read_text())
    default = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    assert ours.pop("online_store")["type"].endswith(".RedisOnlineStore")
    default.pop("online_store")
    assert ours == default


def test_the_jobs_are_given_flags_that_exist():
    import subprocess
    import sys

    for service in SERVICES.values():
        command = [str(word) for word in service.get("command", [])]
        if command and command[0].startswith("/app/jobs/"):
            module = f"jobs.{Path(command[0]).stem}"
            said = subprocess.run(
                [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, timeout=60
            ).stdout
            assert {word for word in command if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", said))


def test_topics_are_those_the_code_makes():
    from streaming.topics import PARTITIONS, REPLICATION, topic_configs

    text = "\n".join(SERVICES["kafka-topics"]["command"])
    made = {
        name: dict(pair.split("=") for pair in re.findall(r"--config (\S+)", options))
        for name, options in re.findall(r"make_topic --topic (\S+)(.*)", text)
    }
    assert made == topic_configs(Settings())
    assert f"--partitions {PARTITIONS} --replication-factor {REPLICATION} " in text


def test_the_broker_is_the_one_the_tests_run():
    pom = (ROOT / "scripts" / "kafka" / "pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>(.+)</version>", pom)[1]
    assert {SERVICES[name]["image"] for name in ("kafka", "kafka-topics")} == {f"apache/kafka:{version}"}


def test_the_consumer_may_speak_to_that_broker_and_says_that_it_is_ready():
    from streaming.clients import require_safe

    given = SERVICES["consumer"]["environment"]
    settings = Settings(
        kafka_servers=given["MOONTIDE_KAFKA_SERVERS"], kafka_plaintext_hosts=json.loads(given["MOONTIDE_KAFKA_PLAINTEXT_HOSTS"])
    )
    require_safe(settings)
    probe = " ".join(SERVICES["consumer"]["healthcheck"]["test"])
    assert f"http://localhost:{settings.stream_port}/readyz" in probe


def test_the_image_copies_every_package():
    import tomllib

    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [*built["packages"], *(Path(s).parts[0] for e in built["ext-modules"] for s in e["sources"])]
    copied = set(re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.M))
    assert {p.split(".")[0] for p in packages} <= copied
