"""Settings: standard names, a sentence per mistake, secrets from files."""

from pathlib import Path

import pytest

from export_service.cli.config import walk
from export_service.failures import SettingsError
from export_service.settings import Settings, load


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("EXPORT_", "AWS_ENDPOINT", "AWS_REGION", "AWS_DEFAULT_REGION")):
            monkeypatch.delenv(name)


def test_a_services_own_endpoint_wins_over_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://localhost:4566")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://localhost:9324")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    aws = load().aws
    assert (aws.endpoint_for("sqs"), aws.endpoint_for("stepfunctions")) == ("http://localhost:9324", "http://localhost:4566")
    assert aws.region_name == "eu-west-1"


def test_every_mistake_is_a_line_with_variable_value_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_TOPICS_PARTITIONS", "many")
    monkeypatch.setenv("EXPORT_CATALOG", "s3://b/list.txt")
    with pytest.raises(SettingsError) as caught:
        load()
    lines = str(caught.value).splitlines()
    assert "EXPORT_CATALOG='s3://b/list.txt': must end in .jsonl or .csv, which says the manifest's format" in lines
    assert any(line.startswith("EXPORT_TOPICS_PARTITIONS='many': Input should be a valid integer") for line in lines)


def test_a_secret_comes_from_a_file_and_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    monkeypatch.setenv("EXPORT_KAFKA_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("EXPORT_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("EXPORT_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    settings = load()
    monkeypatch.delenv("EXPORT_KAFKA_SASL_PASSWORD")
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(list(walk(settings)))


def test_sasl_without_credentials_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    with pytest.raises(SettingsError, match="set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"):
        load()


def test_every_setting_is_listed_once() -> None:
    names = [name for name, _, _ in walk(Settings())]
    assert len(names) == len(set(names))
    assert {"EXPORT_KAFKA_BOOTSTRAP_SERVERS", "EXPORT_QUEUE_URL", "AWS_REGION"} <= set(names)
