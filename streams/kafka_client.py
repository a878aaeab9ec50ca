"""How every Kafka client of ours connects: the embedded broker, a TLS cluster, or one with SASL."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from export_service.failures import Unavailable
from export_service.settings import Settings

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Largest record that we send. An SQS body of 1 MiB in which every byte is escaped (\\u0000) makes 6 MiB of JSON."""


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for aiokafka's clients."""
    kafka = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "client_id": settings.app_id,
    }
    if (context := tls(settings)) is not None:
        options["ssl_context"] = context
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_password:
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    return options


def tls(settings: Settings) -> ssl.SSLContext | None:
    """None where the protocol has no TLS."""
    kafka = settings.kafka
    if not kafka.security_protocol.endswith("SSL"):
        return None
    return ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)


def unreachable(settings: Settings, error: Exception) -> Unavailable:
    """The error as a sentence with address and setting."""
    detail = f"{settings.kafka.bootstrap_servers}: {type(error).__name__}"
    return Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", detail)


@contextmanager
def kafka_errors(settings: Settings) -> Iterator[None]:
    """What Kafka refuses inside, or does not answer, becomes Unavailable."""
    try:
        yield
    except (TimeoutError, KafkaError) as error:
        raise unreachable(settings, error) from None


@asynccontextmanager
async def asker(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Asks the brokers about topics and groups. What Kafka refuses inside becomes Unavailable."""
    admin = AIOKafkaAdminClient(**connection(settings))
    with kafka_errors(settings):
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()
