"""The peer HealthChain: a patient-view by its own gateway, below `/cds`, with cards that were made before.

python healthchain_hooks.py PORT CARDS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvicorn
from healthchain.gateway import CDSHooksService, HealthChainAPI
from healthchain.models.requests.cdsrequest import CDSRequest
from healthchain.models.responses.cdsresponse import Card, CDSResponse

PORT = int(sys.argv[1])
CARDS = {
    patient: [
        # The library wants of every link a key that the specification does not have.
        Card(**card | {"links": [{"autoLaunchable": None} | link for link in card.get("links", [])]})
        for card in cards
    ]
    for patient, cards in json.loads(Path(sys.argv[2]).read_text()).items()
}
hooks = CDSHooksService()


@hooks.hook("patient-view", id="auscult-patient-view")
def patient_view(request: CDSRequest) -> CDSResponse:
    """Answer with the patient's cards."""
    return CDSResponse(cards=CARDS.get(request.context.patientId, []))


app = HealthChainAPI()
app.register_service(hooks)
uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_config=None)
