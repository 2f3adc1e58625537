"""What the calls work on; the composition root builds it."""

from dataclasses import dataclass
from typing import Any

import grpc

from shunter_scheduler.service.leadership import Leadership
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.service.sessions import Sessions
from shunter_scheduler.service.spans import DispatchSpans
from shunter_scheduler.service.unary import UnaryRequests
from shunter_scheduler.service.view import ClusterView
from shunter_scheduler.telemetry import Telemetry

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    driver: Driver
    sessions: Sessions
    unary: UnaryRequests
    view: ClusterView
    spans: DispatchSpans
    telemetry: Telemetry
    leadership: Leadership
