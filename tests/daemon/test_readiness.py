"""``/readyz``: 503 while a source does not listen, 200 with a reason while one does not see everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from listener.contracts import SourceHealth, SourceState
from listener.daemon.admin.authenticator import Authenticator
from listener.daemon.admin.server import Probes
from listener.daemon.state import reasons_degraded, reasons_not_ready
from listener.settings import AdminSettings


class Part:
    """Stands for whatever has the attributes that are given."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def probes(health: SourceHealth, token: str | None = None) -> Probes:
    """Return the probes of a daemon with one source."""
    intake = Part(sources={"www": Part(health=health)}, finished=set())
    pipeline: Any = Part(intake=intake, store_trouble=None, ready=health.ready, lost="", instance_trouble="")
    view: Any = Part(
        not_ready=lambda: reasons_not_ready(pipeline, "running"), degraded=lambda: reasons_degraded(pipeline)
    )
    return Probes(view, Authenticator(AdminSettings.model_validate({"token": token})))


@pytest.mark.parametrize(
    ("state", "ready", "status", "field"),
    [
        (SourceState.LISTENING, True, 200, ""),
        (SourceState.DEGRADED, True, 200, "degraded"),
        (SourceState.DEGRADED, False, 503, "reasons"),
        (SourceState.FAILED, False, 503, "reasons"),
        (SourceState.SCANNING, False, 503, "reasons"),
    ],
)
async def test_only_a_source_that_does_not_listen_makes_it_503(
    state: SourceState, ready: bool, status: int, field: str
) -> None:
    """What is degraded is named either way, and without the token only that there is something."""
    health = SourceHealth(state=state, ready=ready, detail="a/ cannot be read")
    answer = await probes(health).readyz(make_mocked_request("GET", "/readyz"))
    assert answer.status == status
    fields = json.loads(answer.body)  # type: ignore[arg-type]
    expected: dict[str, Any] = {"ready": status == 200, "reasons": [], "degraded": []}
    assert fields == expected | ({field: ["source www: a/ cannot be read"]} if field else {})
    hidden = await probes(health, "0123456789abcdef").readyz(make_mocked_request("GET", "/readyz"))
    assert json.loads(hidden.body) == expected | ({field: ["sign in to see why"]} if field else {})  # type: ignore[arg-type]
