"""How Kafka's clients prove who they are, and how they know the brokers: TLS, client certificates, SASL.

What is asked of the settings is asked once, at the start: a service whose credentials cannot be used does not start.
"""

from __future__ import annotations

import ssl
from typing import Any

from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings


def security(settings: Settings) -> dict[str, Any]:
    """Return kafka-python's options for the settings; RefuseToStart where they cannot be used. Holds the password."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = _trust(settings)
    if protocol.startswith("SASL"):
        options |= _account(settings)
    return options


def _trust(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_tls_ca)
        if settings.kafka_tls_cert:
            context.load_cert_chain(settings.kafka_tls_cert, settings.kafka_tls_key)
    except (OSError, ValueError) as error:
        raise RefuseToStart(
            "kafka-tls-unusable",
            "AUSCULT_KAFKA_TLS_CA, AUSCULT_KAFKA_TLS_CERT and AUSCULT_KAFKA_TLS_KEY need readable PEM files without "
            f"a passphrase, and the key that fits the certificate ({type(error).__name__})",
        ) from None
    return context


def _account(settings: Settings) -> dict[str, str]:
    mechanism = settings.kafka_sasl_mechanism
    if mechanism == "PLAIN" and settings.kafka_security_protocol != "SASL_SSL":
        raise RefuseToStart(
            "kafka-password-in-clear",
            "PLAIN sends the password itself: set AUSCULT_KAFKA_SECURITY_PROTOCOL to SASL_SSL, or use SCRAM-SHA-512",
        )
    if not (settings.kafka_sasl_username and settings.kafka_sasl_password_file):
        raise RefuseToStart(
            "kafka-account-missing", "SASL needs AUSCULT_KAFKA_SASL_USERNAME and AUSCULT_KAFKA_SASL_PASSWORD_FILE"
        )
    try:
        password = settings.kafka_sasl_password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise RefuseToStart(
            "kafka-password-unreadable",
            f"AUSCULT_KAFKA_SASL_PASSWORD_FILE needs a readable text file ({type(error).__name__})",
        ) from None
    if not password:
        raise RefuseToStart("kafka-password-empty", "the file of AUSCULT_KAFKA_SASL_PASSWORD_FILE has no password")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password,
    }
