"""Who asks for how much and when: traces of real services and generated load."""

from shunter_simulator.workloads.arrivals import Arrival, scale, window
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import GeneratedLoad, generate
from shunter_simulator.workloads.lengths import Length, parse_length
from shunter_simulator.workloads.prompts import PromptTokens
from shunter_simulator.workloads.sources import load_workload
from shunter_simulator.workloads.traces import read_azure, read_mooncake

__all__ = [
    "Arrival",
    "GeneratedLoad",
    "Length",
    "PromptTokens",
    "WorkloadError",
    "generate",
    "load_workload",
    "parse_length",
    "read_azure",
    "read_mooncake",
    "scale",
    "window",
]
