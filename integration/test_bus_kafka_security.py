"""The bus on a Kafka that speaks TLS alone, and asks for an account or a certificate."""

from __future__ import annotations

import gc
import io
import logging
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stack.servers import Kafka

from auscult.bus import kafka as adapter
from auscult.bus.factory import open_bus
from auscult.bus.topics import Topic
from auscult.entrypoints.demo.processes import free_port
from auscult.platform.errors import Retry
from auscult.platform.settings import Settings
from certificates import Authority
from contracts.bus_contract import EVENT, KEY, take

PASSWORD = "correct horse battery staple"  # noqa: S105 - of the broker that this test starts
WRONG = "incorrect horse"
LISTENERS = """
listeners=ACCOUNTS://127.0.0.1:@PORT@,CERTIFICATES://127.0.0.1:{second},CONTROLLER://127.0.0.1:@CONTROLLER_PORT@
advertised.listeners=ACCOUNTS://127.0.0.1:@PORT@,CERTIFICATES://127.0.0.1:{second}
listener.security.protocol.map=ACCOUNTS:SASL_SSL,CERTIFICATES:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CERTIFICATES
listener.name.certificates.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.accounts.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_auscult="{password}";
listener.name.accounts.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
"""


@dataclass(frozen=True)
class Secured:
    """A broker, what its clients need, and the address of the listener that asks for certificates."""

    accounts: str
    certificates: str
    authority: Authority
    folder: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run a broker with two listeners, both with TLS."""
    folder = tmp_path_factory.mktemp("kafka")
    authority = Authority(folder)
    certificate, key = authority.issue("broker")
    keystore = folder / "keystore.pem"
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    second = free_port()
    listeners = LISTENERS.format(
        second=second, password=PASSWORD, keystore=keystore, truststore=authority.certificate
    )
    server = Kafka(folder / "broker", listeners, f"SCRAM-SHA-512=[name=auscult,password={PASSWORD}]")
    server.start()
    yield Secured(f"kafka://{server.address}", f"kafka://127.0.0.1:{second}", authority, folder)
    server.stop()


def account(secured: Secured, password: str = PASSWORD, **more: Any) -> Settings:
    """Return the settings of a service with an account."""
    file = secured.folder / f"{password}.txt"
    file.write_text(f"{password}\n")
    return Settings(
        bus_url=secured.accounts,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="auscult",
        kafka_sasl_password_file=file,
        **{"kafka_tls_ca": secured.authority.certificate, **more},
    )


def arrives(settings: Settings) -> None:
    """Publish an event, and take it as a member of a group."""
    topic = Topic(f"test.{settings.kafka_security_protocol}.{settings.kafka_sasl_mechanism}")
    with closing(open_bus(settings)) as bus:
        bus.publish(topic, EVENT, key=KEY)
        with bus.subscribe(topic, group="workers") as subscription:
            assert take(subscription, 1)[0].event.id == EVENT.id


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_events_go_through_with_an_account(secured: Secured, mechanism: Any) -> None:
    """Whichever way the account is shown."""
    arrives(account(secured, kafka_sasl_mechanism=mechanism))


def test_events_go_through_with_a_certificate(secured: Secured) -> None:
    """Without an account, as the broker knows the certificate's authority."""
    certificate, key = secured.authority.issue("auscult")
    arrives(
        Settings(
            bus_url=secured.certificates,
            kafka_security_protocol="SSL",
            kafka_tls_ca=secured.authority.certificate,
            kafka_tls_cert=certificate,
            kafka_tls_key=key,
        )
    )


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Take what kafka-python logs at the services' level, as text: its records hold exceptions, and these sockets."""
    text = io.StringIO()
    logger, handler = logging.getLogger("kafka"), logging.StreamHandler(text)
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_what_is_not_trusted_is_told_as_an_outage(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    """A wrong password, a strange broker, no certificate: the event stays ours, and no log has the password."""
    monkeypatch.setattr(adapter, "_REQUEST_SECONDS", 1)
    for settings in (
        account(secured, WRONG),
        account(secured, WRONG, kafka_sasl_mechanism="PLAIN"),
        account(secured, kafka_tls_ca=Authority(tmp_path, "stranger").certificate),
        Settings(
            bus_url=secured.certificates,
            kafka_security_protocol="SSL",
            kafka_tls_ca=secured.authority.certificate,
        ),
    ):
        with closing(open_bus(settings)) as bus, pytest.raises(Retry, match="AUSCULT_KAFKA"):
            bus.publish(Topic("test"), EVENT, key=KEY)
    for thing in gc.get_objects():
        if isinstance(thing, ssl.SSLSocket):
            thing.close()  # kafka-python leaves that to the collector, where a handshake failed
    assert "failed" in log.getvalue()
    assert WRONG not in log.getvalue()
