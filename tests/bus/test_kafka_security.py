"""What Kafka's clients are told of TLS and accounts."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from auscult.bus.kafka_security import security
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from certificates import Authority

ACCOUNT = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "auscult"}


def test_without_settings_kafka_is_spoken_in_the_clear() -> None:
    """As on one machine."""
    assert security(Settings()) == {"security_protocol": "PLAINTEXT"}


def test_an_account_is_read_from_its_file(tmp_path: Path) -> None:
    """The line's end is no part of the password; the settings do not hold it."""
    file = tmp_path / "password"
    file.write_text(" pässword \n")
    settings = Settings(**ACCOUNT, kafka_sasl_password_file=file)
    options = security(settings)
    assert options.pop("ssl_context").verify_mode is ssl.CERT_REQUIRED
    assert options == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "auscult",
        "sasl_plain_password": " pässword ",
    }
    assert "pässword" not in repr(settings)


def test_brokers_are_trusted_by_the_named_authority_alone(tmp_path: Path) -> None:
    """And asked for their name."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("auscult")
    context = security(
        Settings(
            kafka_security_protocol="SSL",
            kafka_tls_ca=authority.certificate,
            kafka_tls_cert=certificate,
            kafka_tls_key=key,
        )
    )["ssl_context"]
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kafka_security_protocol": "SSL", "kafka_tls_ca": "/nowhere/ca.pem"}, "kafka-tls-unusable"),
        ({"kafka_security_protocol": "SSL", "kafka_tls_cert": __file__}, "kafka-tls-unusable"),
        ({"kafka_security_protocol": "SASL_SSL"}, "AUSCULT_KAFKA_SASL_USERNAME"),
        (ACCOUNT, "AUSCULT_KAFKA_SASL_PASSWORD_FILE"),
        ({**ACCOUNT, "kafka_sasl_password_file": "/nowhere/password"}, "kafka-password-unreadable"),
        ({**ACCOUNT, "kafka_sasl_password_file": "/dev/null"}, "kafka-password-empty"),
        ({"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN"}, "kafka-password-in-clear"),
    ],
)
def test_what_cannot_be_used_refuses_to_start(settings: dict[str, Any], said: str) -> None:
    """And is named by the setting that has to be corrected."""
    with pytest.raises(RefuseToStart, match=said):
        security(Settings(**settings))
