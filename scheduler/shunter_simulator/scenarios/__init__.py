"""Scenarios: what `shunter simulate` runs, as a typed file."""

from shunter_simulator.scenarios.engines import EngineSettings, ExplicitTimes
from shunter_simulator.scenarios.faults import Fault
from shunter_simulator.scenarios.load import load_scenario, parse_scenario, with_policy
from shunter_simulator.scenarios.moves import MoveSettings
from shunter_simulator.scenarios.scenario import Network, Rejected, Scenario, ScenarioPool

__all__ = [
    "EngineSettings",
    "ExplicitTimes",
    "Fault",
    "MoveSettings",
    "Network",
    "Rejected",
    "Scenario",
    "ScenarioPool",
    "load_scenario",
    "parse_scenario",
    "with_policy",
]
