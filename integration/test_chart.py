"""The Helm chart renders, and configures the services with settings that they know."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack.servers import STACK

from auscult.platform.settings import Settings

CHART = Path(__file__).resolve().parents[1] / "helm" / "auscult"
SITE = [
    "--set",
    "settings.fhir_base=https://fhir.example/r4",
    "--set",
    "settings.hooks_public_url=https://cds.example",
    "--set",
    "cdsHooks.clientsSecret=ehrs",
]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm on the chart."""
    return subprocess.run([str(STACK / "bin" / "helm"), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Render the chart as a site would."""
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0", *SITE)
    assert rendered.returncode == 0, rendered.stderr
    return [item for item in yaml.safe_load_all(rendered.stdout) if item]


def test_the_chart_has_no_lint(objects: list[dict[str, Any]]) -> None:
    """`helm lint` finds nothing, and each deployable has its Deployment."""
    assert helm("lint", str(CHART), *SITE).returncode == 0
    deployments = {item["metadata"]["name"] for item in objects if item["kind"] == "Deployment"}
    assert deployments == {"site-listen", "site-inference", "site-pathways", "site-cds-hooks"}


def test_every_setting_of_the_chart_is_one_of_the_services(
    objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the services would ignore, or a value that they would refuse, is found here, not in the cluster."""
    data = next(item["data"] for item in objects if item["kind"] == "ConfigMap")
    assert {name.removeprefix("AUSCULT_").lower() for name in data} <= set(Settings.model_fields)
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    assert Settings().bus == "kafka://kafka:9092"


def test_models_may_come_from_a_bucket() -> None:
    """With a bucket there is no volume of models: each pod that reads them has a cache, and the credentials."""
    bucket = ["url=s3://models/site", "endpoint=https://s3.example", "credentialsSecret=s3-models"]
    values = [word for value in bucket for word in ("--set", f"modelRepository.s3.{value}")]
    values += ["--set", "modelRepository.trustedKeys={a2V5}", "--set", "inference.metrics.serviceMonitor=true"]
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0", *SITE, *values)
    assert rendered.returncode == 0, rendered.stderr
    found = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(rendered.stdout) if item}
    data = found["ConfigMap", "site"]["data"]
    assert data["AUSCULT_MODEL_TRUSTED_KEYS"] == '["a2V5"]'
    assert data["AUSCULT_S3_ENDPOINT"] == "https://s3.example"
    for name in ("inference", "pathways", "cds-hooks"):
        pod = found["Deployment", f"site-{name}"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {"secretRef": {"name": "s3-models"}} in container["envFrom"]
        assert {"name": "AUSCULT_MODEL_REPOSITORY", "value": "s3://models/site"} in container["env"]
        assert {"name": "models", "emptyDir": {}} in pod["volumes"]
        assert {"name": "models", "mountPath": "/models", "readOnly": False} in container["volumeMounts"]
    assert {"secretRef": {"name": "s3-models"}} not in (
        found["Deployment", "site-listen"]["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    )
    service = found["Service", "site-inference"]["spec"]
    assert service["ports"][1] == {"name": "metrics", "port": 8002, "targetPort": "metrics"}
    assert found["ServiceMonitor", "site-inference"]["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics"}]


def test_images_may_be_in_a_bucket_and_the_pacs_may_have_secrets() -> None:
    """Then no volume is shared, and the pods that read images have the credentials, the header and the PEM files."""
    given = ["imageStore.s3.url=s3://images/site", "imageStore.s3.credentialsSecret=s3-images"]
    given += ["pacs.authorizationSecret=header", "pacs.tlsSecret=pem", "pacs.clientCertificate=true"]
    values = [word for value in given for word in ("--set", value)]
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0", *SITE, *values)
    assert rendered.returncode == 0, rendered.stderr
    found = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(rendered.stdout) if item}
    assert ("PersistentVolumeClaim", "site-images") not in found
    for name in ("listen", "pathways"):
        pod = found["Deployment", f"site-{name}"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {"secretRef": {"name": "s3-images"}} in container["envFrom"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment["AUSCULT_IMAGE_STORE"] == "s3://images/site"
        assert environment["AUSCULT_PACS_TLS_KEY"] == "/pacs-tls/tls.key"
        assert environment["AUSCULT_PACS_AUTHORIZATION_FILE"] == "/pacs-authorization/authorization"
        assert {"name": "pacs-tls", "secret": {"secretName": "pem"}} in pod["volumes"]
        assert {"name": "pacs-authorization", "mountPath": "/pacs-authorization", "readOnly": True} in (
            container["volumeMounts"]
        )


def test_kafkas_account_is_for_those_who_speak_to_it() -> None:
    """The password and the PEM files come from Secrets; the inference service, which needs no bus, has neither."""
    given = ["settings.kafka_security_protocol=SASL_SSL", "settings.kafka_sasl_username=auscult"]
    given += ["kafka.passwordSecret=account", "kafka.tlsSecret=brokers"]
    values = [word for value in given for word in ("--set", value)]
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0", *SITE, *values)
    assert rendered.returncode == 0, rendered.stderr
    pods = {
        item["metadata"]["name"].removeprefix("site-"): item["spec"]["template"]["spec"]
        for item in yaml.safe_load_all(rendered.stdout)
        if item and item["kind"] == "Deployment"
    }
    for name, pod in pods.items():
        (container,) = pod["containers"]
        has = {volume["name"] for volume in pod["volumes"]} & {"kafka-password", "kafka-tls"}
        told = {each["name"].removeprefix("AUSCULT_").lower() for each in container["env"]}
        assert has == (set() if name == "inference" else {"kafka-password", "kafka-tls"})
        assert has <= {mount["name"] for mount in container["volumeMounts"]}
        assert ("kafka_sasl_password_file" in told) is (name != "inference")
        assert told <= set(Settings.model_fields)


def test_the_listener_hears_the_record_where_it_is_asked_to() -> None:
    """Ports, the secret's files and the settings that go with them; without them nothing of it is there."""
    wanted = ["notifications.enabled=true", "notifications.secret=ehr", "hl7.enabled=true", "hl7.peers={10.0.0.0/8}"]
    values = [word for value in wanted for word in ("--set", f"listen.{value}")]
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0", *SITE, *values)
    assert rendered.returncode == 0, rendered.stderr
    found = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(rendered.stdout) if item}
    pod = found["Deployment", "site-listen"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "AUSCULT_FHIR_NOTIFY_SECRET_FILE", "value": "/notifications/secrets"} in container["env"]
    assert {"name": "AUSCULT_HL7_PEERS", "value": '["10.0.0.0/8"]'} in container["env"]
    assert {item["name"].removeprefix("AUSCULT_").lower() for item in container["env"]} <= set(Settings.model_fields)
    assert {"name": "notifications", "secret": {"secretName": "ehr"}} in pod["volumes"]
    ports = {port["name"]: port["port"] for port in found["Service", "site-listen"]["spec"]["ports"]}
    assert ports == {"dicom": 11112, "notifications": 8089, "hl7": 2575}


def test_a_site_that_forgot_its_fhir_server_is_told() -> None:
    """The chart does not install without the FHIR base URL, and says which value is missing."""
    rendered = helm("template", "site", str(CHART), "--kube-version", "1.33.0")
    assert rendered.returncode != 0
    assert "settings.fhir_base" in rendered.stderr


def test_no_container_may_do_more_than_it_needs(objects: list[dict[str, Any]]) -> None:
    """Every container is unprivileged, on a read-only root, without a service account token."""
    for item in objects:
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
