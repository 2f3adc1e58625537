"""What happens inside an engine, step by step, without a clock.

`BatchScheduler` decides what each step computes; it serves the simulated engine and the NumPy
engine alike. `SimulatedEngine` adds predicted step times and made-up tokens.
"""

from shunter_simulator.engine.batching import BatchScheduler
from shunter_simulator.engine.kv_pool import CacheListener
from shunter_simulator.engine.model import SimulatedEngine, SimulatedStep, engine_config
from shunter_simulator.engine.moving import MovableBatch, NoRoom, NotDecoding, SequenceView
from shunter_simulator.engine.tokens import TokenRule, TokenSampling
from shunter_simulator.engine.values import (
    Chunk,
    EngineConfig,
    EngineStats,
    NewToken,
    PromptTooLong,
    QueueFull,
    SequenceSpec,
    StepOutcome,
    StepPlan,
)

__all__ = [
    "BatchScheduler",
    "CacheListener",
    "Chunk",
    "EngineConfig",
    "EngineStats",
    "MovableBatch",
    "NewToken",
    "NoRoom",
    "NotDecoding",
    "PromptTooLong",
    "QueueFull",
    "SequenceSpec",
    "SequenceView",
    "SimulatedEngine",
    "SimulatedStep",
    "StepOutcome",
    "StepPlan",
    "TokenRule",
    "TokenSampling",
    "engine_config",
]
