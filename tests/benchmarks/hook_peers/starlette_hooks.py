"""The peer Starlette with msgspec: a patient-view by hand, read strictly and answered from a dict.

python starlette_hooks.py PORT CARDS.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Context(msgspec.Struct, rename="camel"):
    """Who is looking at whom."""

    user_id: str
    patient_id: str


class Call(msgspec.Struct, rename="camel"):
    """What an EHR sends."""

    hook: str
    hook_instance: str
    context: Context
    prefetch: dict[str, Any] | None = None


PORT, CARDS = int(sys.argv[1]), msgspec.json.decode(Path(sys.argv[2]).read_bytes())
READ = msgspec.json.Decoder(Call)


async def patient_view(request: Request) -> Response:
    """Answer with the patient's cards."""
    call = READ.decode(await request.body())
    answer = {"cards": CARDS.get(call.context.patient_id, [])}
    return Response(msgspec.json.encode(answer), media_type="application/json")


app = Starlette(routes=[Route("/cds-services/auscult-patient-view", patient_view, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_config=None)
