"""What a connection over TLS failed of, in words that an operator can act on."""

from __future__ import annotations

import ssl


def cause(error: BaseException) -> str:
    """Name why a connection failed: what is wrong with the certificate, else the error's type.

    The texts are OpenSSL's own; an error's full text may have the address, which has identifiers.
    """
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ssl.SSLCertVerificationError):
            # "Hostname mismatch, certificate is not valid for 'HOST'": what comes first is enough.
            return f"its certificate is not trusted: {at.verify_message.partition(',')[0]}"
        if isinstance(at, ssl.SSLError):
            return f"TLS failed: {at.reason or type(at).__name__}"
        at = at.__cause__ or at.__context__
    return type(error).__name__
