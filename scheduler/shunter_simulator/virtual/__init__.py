"""Engines in virtual time, by lengths instead of tokens: what large simulations run."""

from shunter_simulator.virtual.engine import VirtualEngine
from shunter_simulator.virtual.step_times import (
    LLAMA_7B_A10,
    LLAMA_30B_4XA10,
    DecodeLine,
    LinearTimes,
    LoneRequestTimes,
    RooflineTimes,
    StepTimes,
)
from shunter_simulator.virtual.values import (
    Batching,
    EngineEvent,
    EngineObservation,
    EngineShape,
    EventKind,
    Export,
    VirtualSequence,
)

__all__ = [
    "LLAMA_7B_A10",
    "LLAMA_30B_4XA10",
    "Batching",
    "DecodeLine",
    "EngineEvent",
    "EngineObservation",
    "EngineShape",
    "EventKind",
    "Export",
    "LinearTimes",
    "LoneRequestTimes",
    "RooflineTimes",
    "StepTimes",
    "VirtualEngine",
    "VirtualSequence",
]
