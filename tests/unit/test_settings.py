"""Settings: standard names, a sentence per mistake, secrets from files."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from export_service.cli.config import walk
from export_service.failures import SettingsError
from export_service.requests import Policy
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


def test_standby_tables_need_a_disk_and_names_of_workers_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_TALLY_STANDBY_REPLICAS", "1")
    with pytest.raises(SettingsError, match="TALLY_STANDBY_REPLICAS needs TALLY_STORE=rocksdb://"):
        load()
    monkeypatch.setenv("EXPORT_TALLY_STORE", "rocksdb://")
    assert load().tally.standby_replicas == 1
    monkeypatch.setenv("EXPORT_TALLY_STORE", "aerospike://")
    monkeypatch.setenv("EXPORT_KAFKA_GROUP_INSTANCE_ID", "worker 0")
    with pytest.raises(SettingsError) as caught:
        load()
    instance, store = str(caught.value).splitlines()
    assert instance.startswith("EXPORT_KAFKA_GROUP_INSTANCE_ID='worker 0'")
    assert store.startswith("EXPORT_TALLY_STORE='aerospike://'")


def test_where_files_may_come_from_is_checked_at_start_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_DOWNLOAD_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128")
    monkeypatch.setenv("EXPORT_DOWNLOAD_ALLOWED_URLS", "https://files.example.com/,s3://bucket")
    settings = load()
    assert settings.download.allowed_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.download.allowed_urls == Policy.of(settings).sources == ("https://files.example.com/", "s3://bucket")
    shown = {name: value for name, value, _ in walk(settings)}
    assert shown["EXPORT_DOWNLOAD_ALLOWED_NETWORKS"] == "127.0.0.0/8,::1/128"
    monkeypatch.setenv("EXPORT_DOWNLOAD_ALLOWED_NETWORKS", "10.0.0.1/8")
    monkeypatch.setenv("EXPORT_DOWNLOAD_ALLOWED_URLS", "files.example.com")
    with pytest.raises(SettingsError) as caught:
        load()
    networks, urls = str(caught.value).splitlines()
    assert networks.startswith("EXPORT_DOWNLOAD_ALLOWED_NETWORKS='10.0.0.1/8': 10.0.0.1/8 has host bits set; write networks as")
    assert urls.startswith("EXPORT_DOWNLOAD_ALLOWED_URLS='files.example.com': 'files.example.com' has the scheme ''; known are")


def test_nothing_but_public_addresses_by_default() -> None:
    assert Settings().download.allowed_networks == ()


def test_every_setting_is_listed_once() -> None:
    names = [name for name, _, _ in walk(Settings())]
    assert len(names) == len(set(names))
    assert {"EXPORT_KAFKA_BOOTSTRAP_SERVERS", "EXPORT_QUEUE_URL", "AWS_REGION"} <= set(names)


def test_a_mistake_never_shows_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_KAFKA_SASL_PASWORD", "hunter2")
    monkeypatch.setenv("EXPORT_CATALOG", "https://me:hunter2@h/list?sig=hunter2")
    monkeypatch.setenv("AWS_ENDPOINT", "http://me:hunter2@localhost:4566")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "EXPORT_KAFKA_SASL_PASWORD: Extra inputs" in str(caught.value)
    monkeypatch.delenv("EXPORT_KAFKA_SASL_PASWORD")
    monkeypatch.delenv("EXPORT_CATALOG")
    assert "hunter2" not in str(caught.value) + str(list(walk(load())))
