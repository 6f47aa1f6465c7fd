"""A client's keys and tokens, its JWKS endpoint, and what an attacker sends in their place."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISS = "https://ehr.example.org"
PUBLIC = "https://hooks.example.org"
SERVICE = "/cds-services/auscult-patient-view"
FHIR = "https://fhir.example.org/r4"
EC = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
OTHER = ec.generate_private_key(ec.SECP384R1())
BODY = {
    "hook": "patient-view",
    "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
    "context": {"userId": "Practitioner/abc", "patientId": "42"},
}


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    """Return a key's public JWK."""
    kind = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return json.loads(kind.to_jwk(key.public_key())) | {"kid": kid} | more


class KeyServer:
    """A client's JWKS endpoint on loopback that counts what it is asked."""

    def __init__(self) -> None:
        self.keys = [public(EC, "ec"), public(RSA, "rsa")]
        self.asked: list[str] = []
        self.reached = threading.Event()
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.reached.set()
                body = json.dumps({"keys": server.keys}).encode()
                self.send_response(server.status)
                if server.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/jwks"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


_number = iter(range(10**9))


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with `changes`; ... removes one."""
    now = int(time.time())
    valid = {"iss": ISS, "aud": f"{PUBLIC}{SERVICE}", "iat": now, "exp": now + 300, "jti": f"token-{next(_number)}"}
    return {name: value for name, value in (valid | changes).items() if value is not ...}


def token(
    key: Any = EC, kid: str = "ec", alg: str = "ES384", headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    """Sign claims."""
    return jwt.encode(claims(**changes), key, algorithm=alg, headers={"kid": kid} | (headers or {}))


def sealed(header: str, payload: str, key: Any = EC) -> str:
    """Sign raw texts as header and payload, as no library would."""
    signing = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, payload))
    signature = jwt.algorithms.get_default_algorithms()["ES384"].sign(signing.encode(), key)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def tagged(key: bytes, kid: str) -> str:
    """Return a token whose tag is an HMAC with what everybody knows as its key."""
    header = {"alg": "HS384", "kid": kid, "typ": "JWT"}
    signing = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims())
    )
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA384).sign(signing.encode(), key)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _signed_with(signature: bytes) -> str:
    return f"{token().rpartition('.')[0]}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _wide() -> str:
    """Return a signed token whose header is UTF-16: JWS has UTF-8 alone (RFC 7515, 3.1)."""
    parts = (HEADER.encode("utf-16"), json.dumps(claims()).encode())
    signing = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    signature = jwt.algorithms.get_default_algorithms()["ES384"].sign(signing.encode(), EC)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _header(**changes: Any) -> str:
    return sealed(json.dumps(json.loads(HEADER) | changes), json.dumps(claims()))


def _claims(text: str, **changes: Any) -> str:
    return sealed(HEADER, json.dumps(claims(**changes))[:-1] + text)


def _tampered() -> str:
    head, _, sign = token().split(".")
    return ".".join((head, token(iss=ISS).split(".")[1], sign))


def _pem() -> str:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return tagged(pem, "rsa")


HEADER = '{"alg":"ES384","kid":"ec","typ":"JWT"}'
MUTANTS: dict[str, Callable[[], str | None]] = {
    "no token": lambda: None,
    "empty": lambda: "",
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: f"{token()}.x",
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "alg none": lambda: jwt.encode(claims(), None, algorithm="none", headers={"kid": "ec"}),
    "public key as HMAC secret": _pem,
    "another's key": lambda: token(OTHER),
    "payload of another token": _tampered,
    "signature cut": lambda: token()[:-8],
    "RS256": lambda: token(RSA, "rsa", "RS256"),
    "key of the other algorithm": lambda: token(RSA, "ec", "RS384"),
    "kid missing": lambda: sealed('{"alg":"ES384","typ":"JWT"}', json.dumps(claims())),
    "kid unknown": lambda: token(kid="gone"),
    "kid a number": lambda: sealed('{"alg":"ES384","typ":"JWT","kid":7}', json.dumps(claims())),
    "kid a path": lambda: token(kid="../../etc/passwd"),
    "typ another": lambda: token(headers={"typ": "at+jwt"}),
    "crit": lambda: sealed('{"alg":"ES384","kid":"ec","typ":"JWT","crit":["exp"]}', json.dumps(claims())),
    "jwk of its own": lambda: token(OTHER, headers={"jwk": public(OTHER, "ec")}),
    "jku elsewhere": lambda: token(headers={"jku": "https://evil.example.org/jwks"}),
    "x5u": lambda: token(headers={"x5u": "https://evil.example.org/cert"}),
    "iss unknown": lambda: token(iss="https://evil.example.org"),
    "iss missing": lambda: token(iss=...),
    "iss with a slash more": lambda: token(iss=f"{ISS}/"),
    "iss a list": lambda: sealed(HEADER, json.dumps(claims() | {"iss": [ISS]})),
    "aud missing": lambda: token(aud=...),
    "aud another service": lambda: token(aud=f"{PUBLIC}/cds-services/other"),
    "aud a prefix": lambda: token(aud=PUBLIC),
    "aud empty list": lambda: token(aud=[]),
    "expired": lambda: token(iat=int(time.time()) - 600, exp=int(time.time()) - 60),
    "exp missing": lambda: token(exp=...),
    "exp a text": lambda: sealed(HEADER, json.dumps(claims() | {"exp": "9999999999"})),
    "exp infinite": lambda: sealed(HEADER, json.dumps(claims())[:-1] + ',"x":Infinity}'),
    "exp in years": lambda: token(exp=int(time.time()) + 10**8),
    "iat missing": lambda: token(iat=...),
    "iat in the future": lambda: token(iat=int(time.time()) + 600, exp=int(time.time()) + 900),
    "nbf in the future": lambda: token(nbf=int(time.time()) + 600),
    "jti missing": lambda: token(jti=...),
    "jti empty": lambda: token(jti=""),
    "a claim twice": lambda: sealed(HEADER, json.dumps(claims())[:-1] + f',"iss":"{ISS}"}}'),
    "payload a list": lambda: sealed(HEADER, "[]"),
    "payload no JSON": lambda: sealed(HEADER, "{"),
    "payload nested": lambda: sealed(HEADER, "[" * 6000),
    "too long": lambda: token(jti="x" * 500, padding="y" * 9000),
    "alg of another case": lambda: _header(alg="nOnE"),
    "alg a list": lambda: _header(alg=["ES384"]),
    "alg with a space": lambda: _header(alg="ES384 "),
    "PS384": lambda: token(RSA, "rsa", "PS384"),
    "empty HMAC secret": lambda: tagged(b"", "ec"),
    "public JWK as HMAC secret": lambda: tagged(json.dumps(public(RSA, "rsa")).encode(), "rsa"),
    "b64 false": lambda: _header(b64=False),
    "jwk null": lambda: _header(jwk=None),
    "x5c": lambda: _header(x5c=["AAAA"]),
    "jku null": lambda: _header(jku=None),
    "jku a file": lambda: _header(jku="file:///etc/passwd"),
    "kid of another case": lambda: token(kid="EC"),
    "kid with NUL": lambda: token(kid="ec\0"),
    "kid half a character": lambda: sealed('{"alg":"ES384","typ":"JWT","kid":"\\ud800"}', json.dumps(claims())),
    "alg twice": lambda: sealed('{"alg":"none",' + HEADER[1:], json.dumps(claims())),
    "a name twice inside a claim": lambda: _claims(',"x":{"a":1,"a":2}}'),
    "header with a byte order mark": lambda: sealed("\ufeff" + HEADER, json.dumps(claims())),
    "header in UTF-16": _wide,
    "typ missing": lambda: sealed('{"alg":"ES384","kid":"ec"}', json.dumps(claims())),
    "nbf huge": lambda: token(nbf=10**30),
    "nbf a text": lambda: _claims(',"nbf":"0"}'),
    "nbf beyond numbers": lambda: _claims(',"nbf":1e400}'),
    "exp of 5000 digits": lambda: _claims(',"exp":' + "9" * 5000 + "}", exp=...),
    "exp true": lambda: token(exp=True),
    "exp before iat": lambda: token(iat=int(time.time()) + 4, exp=int(time.time()) + 1),
    "iat at the epoch": lambda: token(iat=0),
    "aud with a slash more": lambda: token(aud=f"{PUBLIC}{SERVICE}/"),
    "aud with a port": lambda: token(aud=f"{PUBLIC}:443{SERVICE}"),
    "aud of another scheme": lambda: token(aud=f"{PUBLIC}{SERVICE}".replace("https", "http")),
    "aud a list in a list": lambda: _claims(f',"aud":[["{PUBLIC}{SERVICE}"]]}}', aud=...),
    "aud an object": lambda: _claims(f',"aud":{{"{PUBLIC}{SERVICE}":1}}}}', aud=...),
    "iss in capitals": lambda: token(iss=ISS.upper()),
    "iss with another letter": lambda: token(iss=ISS.replace("e", "\u0435", 1)),
    "jti a number": lambda: _claims(',"jti":1}', jti=...),
    "signature of zeros": lambda: _signed_with(bytes(96)),
    "signature in DER": lambda: _signed_with(EC.sign(token().rpartition(".")[0].encode(), ec.ECDSA(SHA384()))),
    "signature padded": lambda: f"{token()}=",
    "signature with more behind it": lambda: f"{token()}AAAA",
    "JSON serialisation": lambda: json.dumps({"payload": "x", "signatures": []}),
    "two tokens": lambda: f"{token()},{token()}",
    "in the middle of words": lambda: f"{token()} {token()}",
}


ELSEWHERE = [
    "http://127.0.0.1:{port}/r4",
    "http://localhost:{port}/r4",
    "http://[::1]:{port}/r4",
    "http://2130706433:{port}/r4",
    "http://0x7f.1:{port}/r4",
    "http://0177.0.0.1:{port}/r4",
    "http://127.1:{port}/r4",
    "http://[::ffff:127.0.0.1]:{port}/r4",
    "https://fhir.example.org@127.0.0.1:{port}/r4",
    "https://fhir.example.org:{port}/r4",
    "https://fhir.example.org.evil.example/r4",
    "https://fhir.example.org/r4/../../admin",
    "https://fhir.example.org/r4%2f..",
    "https://fhir.example.org./r4",
    "https://fhir.example.org/r4#@127.0.0.1:{port}",
    "https://fhir.example.org/r4?x=1",
    "https://FHIR.example.org/r4",
    "http://fhir.example.org/r4",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_",
    "http://169.254.169.254/latest/meta-data",
    "https://fhir。example。org/r4",
    "http://0:{port}/r4",
    "http://017700000001:{port}/r4",
    "http://127.0.0.1.:{port}/r4",
    "http://[0:0:0:0:0:ffff:7f00:1]:{port}/r4",
    "http://[::1%25lo]:{port}/r4",
    "http://①②⑦.⓪.⓪.①:{port}/r4",
    "http://127.0.0.1:{port}\\@fhir.example.org/r4",
    "https://fhir.example.org\\@127.0.0.1:{port}/r4",
    "https://fhir.example.org%2f@127.0.0.1:{port}/r4",
    "https://user@fhir.example.org/r4",
    "https://fhir.example.org:443/r4",
    "https://fhir.example.org//r4",
    "https://fhir.example.org/r4//",
    "https://fhir.example.org/r4;x",
    "https://fhir.example.org/r4%00",
    "https://fhir.exam%70le.org/r4",
    "https://fhir.example.org/r4\u200b",
    " https://fhir.example.org/r4",
    "https:fhir.example.org/r4",
    "http://127.0.0.1.nip.io:{port}/r4",
    "http://[fd00:ec2::254]/latest/meta-data",
    "unix:///var/run/docker.sock",
    "ldap://127.0.0.1:{port}/",
    "data:application/fhir+json,x",
    "//127.0.0.1:{port}/r4",
    "",
]
