"""Text descriptions of workloads, as the command line takes them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from shunter_simulator.workloads.arrivals import Arrival, window
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import GeneratedLoad, generate
from shunter_simulator.workloads.lengths import parse_length
from shunter_simulator.workloads.traces import read_azure, read_mooncake

FORMS = "azure:FILE, mooncake:FILE, poisson:rate=R[,input=L][,output=L], gamma:rate=R,cv=C[,...]"
_DEFAULT_FILES: Mapping[str, str] = {
    "azure": "azure/conv.csv.gz",
    "mooncake": "mooncake/conversation.jsonl.gz",
}
# Lengths of the Azure conversation trace: input mean 1155, CV 0.96; output mean 211, CV 0.77.
_DEFAULTS: Mapping[str, str] = {
    "rate": "1",
    "cv": "1",
    "input": "lognormal/1155/0.96",
    "output": "lognormal/211/0.77",
}


def load_workload(
    text: str,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    seed: int = 0,
    data_folder: Path | None = None,
) -> list[Arrival]:
    """The window [start, start + duration) of a trace, or generated load of that duration.

    `azure` and `mooncake` without a file take the one in `data_folder`; a relative file is looked
    for here, then there. Raises `WorkloadError`.
    """
    kind, _, rest = text.partition(":")
    if kind in _DEFAULT_FILES:
        path = _trace_file(kind, rest, data_folder)
        arrivals = read_azure(path) if kind == "azure" else read_mooncake(path, seed)
    elif kind in _GENERATED:
        if duration_s is None:
            raise WorkloadError(f"{text!r} has no end of its own: give a duration")
        load = _GENERATED[kind](_options(kind, rest))
        arrivals = generate(load, start_s + duration_s, np.random.default_rng(seed))
    else:
        raise WorkloadError(f"{text!r} is not a workload; write {FORMS}")
    chosen = window(arrivals, start_s, duration_s)
    if not chosen:
        last_s = arrivals[-1].at_s if arrivals else 0.0
        raise WorkloadError(
            f"{text!r} has no request in that window; its last is at {last_s:.0f} s"
        )
    return chosen


def _trace_file(kind: str, text: str, data_folder: Path | None) -> Path:
    path = Path(text or _DEFAULT_FILES[kind]).expanduser()
    if data_folder is not None and not (path.is_absolute() or path.exists()):
        path = data_folder / path
    if not path.exists():
        remedy = f"write {kind}:FILE or set SHUNTER_DATA" if not text else "give another file"
        raise WorkloadError(f"{path} does not exist; {remedy}")
    return path


def _options(kind: str, text: str) -> Mapping[str, str]:
    options = dict(_DEFAULTS)
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in _DEFAULTS or not equals:
            raise WorkloadError(
                f"{part!r} in {kind} load is not one of {', '.join(f'{n}=...' for n in _DEFAULTS)}"
            )
        options[name] = value
    return options


def _poisson(options: Mapping[str, str]) -> GeneratedLoad:
    return _gamma({**options, "cv": "1"})


def _gamma(options: Mapping[str, str]) -> GeneratedLoad:
    try:
        rate, cv = float(options["rate"]), float(options["cv"])
    except ValueError as error:
        raise WorkloadError(f"rate and cv must be numbers: {error}") from error
    return GeneratedLoad(rate, cv, parse_length(options["input"]), parse_length(options["output"]))


_GENERATED: Mapping[str, Callable[[Mapping[str, str]], GeneratedLoad]] = {
    "poisson": _poisson,
    "gamma": _gamma,
}
