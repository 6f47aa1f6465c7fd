"""All settings, from the environment (`AUSCULT_…`). Immutable once read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from auscult.platform.errors import RefuseToStart

S3Url = Annotated[str, StringConstraints(pattern="^s3://")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Settings(BaseSettings):
    """One process's settings. Each field is set by `AUSCULT_<NAME>`; the defaults serve one machine."""

    model_config = SettingsConfigDict(env_prefix="AUSCULT_", frozen=True, extra="forbid")

    tenant: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    home: Path = Path(".auscult")
    """Where the embedded defaults keep their files."""

    bus_url: str = ""
    """`sqlite:PATH` or `kafka://HOST:PORT[,HOST:PORT…]`. Default: `sqlite:` in `home`."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """As the brokers' listener has it, by Kafka's own names."""
    kafka_tls_ca: Path | None = None
    """PEM certificates by which the brokers are trusted. Default: the system's."""
    kafka_tls_cert: Path | None = None
    """PEM certificate that we show to the brokers, with its key."""
    kafka_tls_key: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password_file: Path | None = None
    """Holds the account's password; read at the start."""
    max_tries: int = Field(10, ge=1)
    """Tries before a message that fails with Retry is dead-lettered; ten span some minutes of an outage."""

    image_store: S3Url | Path | None = None
    """Folder of the image store, or `s3://bucket/prefix`. Default: `images` in `home`."""
    image_cache: Path | None = None
    """Folder for working copies of what an `s3://` image store has. Default: `image-cache` in `home`."""
    image_cache_bytes: int = Field(20 * 2**30, ge=0)
    """Above it working copies go that were not used for an hour."""
    min_free_bytes: int = 512 * 2**20
    """Below this much free space a C-STORE is answered with 0xA700 before anything is written."""

    ae_title: str = Field("AUSCULT", pattern=r"^[\x21-\x7e][\x20-\x7e]{0,15}$")
    dicom_host: str = "127.0.0.1"
    dicom_port: int = 11112
    dicom_peers: tuple[str, ...] = ()
    """Who may call, each `AET`, `AET@ADDRESS`, `AET@NETWORK/BITS` or `@NETWORK/BITS`. Default: everybody."""
    dicom_destinations: dict[str, str] = {}
    """Where C-MOVE may send what the image store holds: AE title to `HOST:PORT`."""
    dicom_tls_cert: Path | None = None
    """PEM certificate of the DICOM listener; with its key and the CA of its peers, DICOM is spoken over TLS alone."""
    dicom_tls_key: Path | None = None
    dicom_tls_ca: Path | None = None
    max_object_bytes: int = Field(4 * 2**30, ge=2**20)
    """A larger DICOM object is refused."""
    dicomweb_host: str = "127.0.0.1"
    dicomweb_port: int = 11180
    """Of STOW-RS, QIDO-RS and WADO-RS, below `/dicom-web`."""
    dicomweb_token: str = Field("", repr=False)
    """What DICOMweb clients send as `Authorization: Bearer`; required beyond this machine, unless they show a
    certificate. Empty: none."""
    dicomweb_tls_cert: Path | None = None
    """PEM certificate of DICOMweb, with its key: HTTPS alone, TLS 1.2 or newer."""
    dicomweb_tls_key: Path | None = None
    dicomweb_tls_ca: Path | None = None
    """With it, DICOMweb clients must show a certificate of this authority."""
    settle_seconds: float = Field(3.0, ge=0)
    """Quiet time after which a study that cannot be known to be complete is judged as it stands."""

    model_repository: S3Url | Path | None = None
    """Triton-layout folder, or `s3://bucket/prefix`. Default: `models` in `home`."""
    model_cache: Path | None = None
    """Folder for the files of an `s3://` repository. Default: `model-cache` in `home`."""
    model_trusted_keys: tuple[str, ...] = ()
    """Ed25519 public keys, e.g. `["<base64>"]`. Where there is one, only models that it signed are served."""
    model_custom_operators: tuple[Sha256, ...] = ()
    """SHA-256 digests, in hex, of libraries of custom operators that models may bring into the process."""
    model_largest_bytes: int = Field(16 * 2**30, gt=0)
    """Bytes of one model's files together; a larger one is refused."""
    s3_endpoint: str = ""
    """S3's address where it is not AWS, e.g. `https://s3.hospital.example`. Empty: AWS's own variables decide."""
    s3_region: str = ""
    """Empty: AWS's own variables decide, which also hold the credentials."""
    inference_listen: str = "127.0.0.1:8001"
    inference_target: str = "127.0.0.1:8001"
    """Any Open Inference Protocol gRPC server."""
    inference_threads: int = Field(0, ge=0)
    """Threads per ONNX session; 0 leaves it to ONNX Runtime."""
    inference_provider: Literal["auto", "tensorrt", "cuda", "cpu"] = "auto"
    """What runs models: TensorRT where it is installed, then CUDA, then the CPU; or what is named, and below it."""
    inference_gpu_memory: int = Field(0, ge=0)
    """Bytes of each GPU's memory that all models' arenas together may take. 0: no limit."""
    inference_gpu_model_memory: int = Field(0, ge=0)
    """Bytes of it for a model whose configuration has no gpu_mem_limit. 0: all that all models may take."""
    inference_model_control: Literal["none", "explicit", "poll"] = "none"
    """Whether models change while the server runs: not at all, by request, or as their folders change."""
    inference_poll_seconds: float = Field(15.0, gt=0)
    """How often the folders are looked at, with `poll`."""
    inference_metrics_listen: str = ""
    """Address of the inference service's Prometheus metrics, e.g. `0.0.0.0:8002`. Empty: none."""

    radiomics_parameters: dict[str, Path] = {}
    """Parameter files of radiomics by pathway, e.g. `{"lung_nodule": "/etc/auscult/radiomics.yaml"}`."""

    fhir_base: str = "http://127.0.0.1:8080/fhir"
    fhir_timeout: float = Field(10.0, gt=0)
    """Seconds that one request to the FHIR server may take."""
    fhir_ids: Literal["auto", "client", "server"] = "auto"
    """Who chooses the ids of what is written; `auto` asks the server's CapabilityStatement, and tries."""
    fhir_extras: tuple[Literal["imaging-study", "audit", "pdf", "drafts", "tasks"], ...] = (
        "imaging-study",
        "audit",
        "pdf",
    )
    """What is written beside a result: the ImagingStudy where the record has none, AuditEvents, the report as PDF;
    not by default: advice as ServiceRequests that can be taken up (`draft`, `proposal`), and as Tasks to decide on it
    (`requested`, `proposal`)."""
    fhir_smart_client_id: str = ""
    """Our client id at the FHIR server's authorization server (SMART Backend Services). Empty: no tokens are used."""
    fhir_smart_keys: Path | None = None
    """JWK set with our private keys, made by `auscult fhir keygen`; read again when it changes."""
    fhir_smart_serve_keys: bool = False
    """Serve the public keys at `/.well-known/jwks.json` of the notifications' address: the client's jwks_uri."""
    fhir_smart_token_url: str = Field("", pattern=r"^$|^https?://")
    """Where tokens are asked for. Default: what the FHIR server says, where that is on its own host."""
    fhir_smart_scopes: str = ""
    """Scopes that are asked for. Default: what Auscult reads and writes, and nothing else."""
    fhir_public_bases: tuple[str, ...] = ()
    """Other addresses under which the FHIR server speaks of itself, e.g. in its notifications' references."""
    fhir_subscriptions: tuple[str, ...] = ()
    """What the FHIR server is asked to notify of, each `Type?parameters`, or `TOPIC-URL Type?parameters`."""
    fhir_subscription_payload: Literal["empty", "id-only", "full-resource"] = "id-only"
    """What a notification holds. R4 rest-hooks without a topic know empty and whole alone; `id-only`: whole."""
    fhir_notify_host: str = "127.0.0.1"
    fhir_notify_port: int = Field(8089, ge=0, le=65535)
    fhir_notify_url: str = Field("", pattern=r"^$|^https?://")
    """As the FHIR server reaches this endpoint, e.g. `https://auscult.hospital.example`."""
    fhir_notify_secret_file: Path | None = None
    """Secrets that the FHIR server shows, one a line; the first is registered, so that they can be changed."""
    fhir_notify_tls_cert: Path | None = None
    fhir_notify_tls_key: Path | None = None
    fhir_notify_tls_ca: Path | None = None
    """With it, the sender must show a certificate, too."""
    fhir_notify_open: bool = False
    """Take notifications beyond loopback without TLS: something in front ends it."""
    fhir_poll: tuple[str, ...] = ()
    """What is asked for where there are no subscriptions, each `Type?parameters`."""
    fhir_poll_seconds: float = Field(30.0, gt=0)
    fhir_poll_overlap: float = Field(60.0, ge=0)
    """Seconds of the server's time that two searches share, for what it shows late."""
    fhir_poll_history: bool = False
    """Ask for `Type/_history` instead of searching, where an entry has no parameters: deletions are seen, too."""
    fhir_reconcile_seconds: float = Field(3600.0, gt=0)
    """How often what is subscribed to is searched as well, in case a subscription died unseen."""

    hl7_host: str = "127.0.0.1"
    hl7_port: int | None = Field(None, ge=0, le=65535)
    """Port for HL7 v2 over MLLP. Default: none."""
    hl7_peers: tuple[str, ...] = ()
    """Who may send, each an address or `NETWORK/BITS`."""
    hl7_tls_cert: Path | None = None
    hl7_tls_key: Path | None = None
    hl7_tls_ca: Path | None = None
    """With it, senders must show a certificate."""
    hl7_max_bytes: int = Field(8 * 2**20, ge=1024)
    hl7_processing_ids: tuple[str, ...] = ("P",)
    """MSH-11 of the messages that are taken."""
    hl7_store: Path | None = None
    """Folder where messages wait until they are handled. Default: `hl7` in `home`."""

    consent_default: Literal["permit", "deny"] = "permit"
    """Whether a patient without a Consent in the record is computed."""
    consent_purposes: tuple[str, ...] = ("TREAT",)
    """Purposes of use of our computations, codes of v3-ActReason."""
    consent_labels: tuple[str, ...] = (
        "http://terminology.hl7.org/CodeSystem/v3-Confidentiality|R",
        "http://terminology.hl7.org/CodeSystem/v3-Confidentiality|V",
    )
    """Security labels, each `system|code`: a Patient that bears one is not computed."""
    opt_out_file: Path | None = None
    """Patients who opted out, one `Patient/<id>` or `system|identifier` a line; read at each study."""
    opt_out_group: str = Field("", pattern=r"^$|^Group/[A-Za-z0-9.-]{1,64}$")
    """A Group in the record whose members opted out."""
    opt_out_flags: tuple[str, ...] = ()
    """Codes, each `system|code`, of active Flags that say so."""

    join_recheck_seconds: float = Field(60.0, gt=0)
    """How often the record is asked for what a run waits for, beside what it notifies of."""

    earlier_seconds: float = Field(15.0, ge=0)
    """How long a result that is ready waits for the patient's earlier study, which is looked for meanwhile, to be
    compared with it. 0: nothing is compared."""

    pacs_url: str = Field("", pattern=r"^$|^(https?|dicoms?)://")
    """Where results go as DICOM objects: `https://HOST/dicom-web` (STOW-RS), or `dicom://AET@HOST:PORT` (C-STORE;
    `dicoms` over TLS). Empty: nowhere."""
    pacs_objects: tuple[Literal["seg", "sr", "rtstruct", "capture"], ...] = ("seg", "sr")
    """What is written of each result."""
    pacs_timeout: float = Field(30.0, gt=0)
    """Seconds that one request to the PACS may take."""
    pacs_authorization_file: Path | None = None
    """Holds the value of the Authorization header for DICOMweb; read at each request."""
    pacs_tls_ca: Path | None = None
    """PEM certificates by which the PACS is trusted. Default: the system's."""
    pacs_tls_cert: Path | None = None
    """PEM certificate that we show to the PACS, with its key."""
    pacs_tls_key: Path | None = None
    pacs_ae_title: str = Field("AUSCULT_OUT", pattern=r"^[\x21-\x7e][\x20-\x7e]{0,15}$")
    """Under which C-STORE is called. Not the listener's: a PACS knows one port for each title."""
    pacs_commitment_port: int = Field(0, ge=0, le=65535)
    """Port on which the PACS answers storage commitment requests to `pacs_ae_title`. 0: it is not asked."""
    orthanc_url: str = Field("", pattern=r"^$|^https?://")
    """REST address of an Orthanc from which each study is taken that becomes stable. Empty: none."""
    orthanc_authorization_file: Path | None = None
    """Holds the value of the Authorization header for it; read at each request."""
    patient_identifier_systems: dict[str, str] = {}
    """DICOM IssuerOfPatientID to FHIR identifier system; the key `` (empty) serves objects without an issuer."""

    hooks_host: str = "127.0.0.1"
    hooks_port: int = 8088
    hooks_public_url: str = "http://127.0.0.1:8088"
    """As clinicians' browsers reach it; cards link to evidence pages below it."""
    hooks_origins: tuple[str, ...] = ()
    """Origins of EHRs that call the hooks from a browser, e.g. `["https://ehr.example.org"]`. Default: none."""
    hooks_clients: Path | None = None
    """YAML file of the EHRs that may call, with their keys. Without it anyone may, on loopback alone."""
    hooks_incomplete: Literal["card", "outcome"] = "card"
    """How a service says that it has no full answer: a card, or 412 with an OperationOutcome."""
    hooks_service_version: bool = False
    """Tell `version` in discovery, a field of the CDS Hooks 3.0 ballot; strict clients of 2.0.1 refuse it."""
    hooks_open: bool = False
    """Serve beyond loopback without registered clients: something in front authenticates the EHR."""
    hooks_snapshot: Path | None = None
    """File in which the cards are kept for the next start; replicas may share it. Default: in `home`."""
    hooks_smart_app: str = Field("", pattern=r"^$|^https://[^\s@#]+$|^http://(127\.0\.0\.1|localhost)[:/][^\s@#]*$")
    """Launch URL of a SMART app, e.g. the image viewer; cards link to it with the study. Empty: no such link."""
    hooks_smart_label: str = "Open the images"
    """What that link says."""
    hooks_current_days: float = Field(365, ge=0)
    """Age of the images above which a card says that it is not current. 0: none does."""

    otlp_endpoint: str = ""
    """OTLP/HTTP collector base, e.g. `http://collector:4318`. Empty: spans go to `home`/`traces` only."""
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @property
    def bus(self) -> str:
        """The bus URL with its default filled in."""
        return self.bus_url or f"sqlite:{self.home / 'bus.db'}"

    def group(self, service: str) -> str:
        """Return the consumer group of a service: each tenant's workers read the whole topic, at their own pace."""
        return service if self.tenant == "default" else f"{service}-{self.tenant}"

    @property
    def images(self) -> Path:
        """The image store's folder with its default filled in; for a bucket that of the working copies."""
        if isinstance(self.image_store, str):
            place = hashlib.sha256(f"{self.s3_endpoint}|{self.image_store}".encode()).hexdigest()[:16]
            return (self.image_cache or self.home / "image-cache") / place
        return self.image_store or self.home / "images"

    @property
    def messages(self) -> Path:
        """The folder of HL7 v2 messages with its default filled in."""
        return self.hl7_store or self.home / "hl7"

    @property
    def models(self) -> Path:
        """The folder with each model's card: the repository itself, or what is kept of one in an object store."""
        if isinstance(self.model_repository, str):
            return self.bucket_cache(self.model_repository) / "cards"
        return self.model_repository or self.home / "models"

    @property
    def models_to_write(self) -> Path:
        """The folder that models are written to; RefuseToStart where the repository is a bucket."""
        if isinstance(self.model_repository, str):
            raise RefuseToStart(
                "model-repository-bucket",
                "models are written to a folder: set AUSCULT_MODEL_REPOSITORY to one, and upload what it has",
            )
        return self.models

    def bucket_cache(self, url: str) -> Path:
        """Return the folder for the files of the repository at `url`; another bucket's must not be taken for them."""
        place = hashlib.sha256(f"{self.s3_endpoint}|{url}".encode()).hexdigest()[:16]
        return (self.model_cache or self.home / "model-cache") / place


def load() -> Settings:
    """Read the environment; RefuseToStart names each variable that cannot be used, never its value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"AUSCULT_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}" for item in error.errors()
        )
        raise RefuseToStart("settings-invalid", f"correct these environment variables: {wrong}") from None
