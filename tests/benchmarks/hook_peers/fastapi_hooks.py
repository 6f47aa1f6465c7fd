"""The peer FastAPI: a patient-view as its tutorial writes one, with a model of the request.

python fastapi_hooks.py PORT CARDS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field


class Context(BaseModel):
    """Who is looking at whom."""

    user_id: str = Field(alias="userId")
    patient_id: str = Field(alias="patientId")


class Call(BaseModel):
    """What an EHR sends."""

    hook: str
    hook_instance: str = Field(alias="hookInstance")
    context: Context
    prefetch: dict[str, Any] | None = None


PORT, CARDS = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
app = FastAPI()


@app.post("/cds-services/auscult-patient-view")
async def patient_view(call: Call) -> dict[str, Any]:
    """Answer with the patient's cards."""
    return {"cards": CARDS.get(call.context.patient_id, [])}


uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_config=None)
