"""TLS of what listens for DICOM: the profile of BCP 195 (PS3.15, B.12), version 1.2 or newer."""

from __future__ import annotations

import ssl
from pathlib import Path

from auscult.platform.errors import RefuseToStart


def server_context(
    certificate: Path | None, key: Path | None, authority: Path | None, *, setting: str, mutual: bool
) -> ssl.SSLContext | None:
    """Return a server's context; None where nothing is set. Clients show a certificate where `authority` is set.

    `mutual`: whether `authority` must be. RefuseToStart (`tls-invalid`).
    """
    needed = {f"{setting}_CERT": certificate, f"{setting}_KEY": key} | (
        {f"{setting}_CA": authority} if mutual else {}
    )
    if not any((certificate, key, authority)):
        return None
    if not certificate or not key or not all(needed.values()):
        raise RefuseToStart("tls-invalid", f"set {' and '.join(needed)}, or none of them")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise RefuseToStart(
            "tls-invalid", f"a file of {setting}_… cannot be used ({type(error).__name__}); they must be PEM"
        ) from None
    return context
