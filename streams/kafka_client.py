"""How every Kafka client of ours connects: the embedded broker, a TLS cluster, or one with SASL."""

import ssl
from typing import Any

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
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_password:
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    return options
