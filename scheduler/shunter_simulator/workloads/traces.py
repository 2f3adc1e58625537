"""Readers of published traces, plain or gzip-compressed."""

import csv
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.files import open_text

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DATETIME_DIGITS = len("2023-11-16 18:15:46.680590")  # Python reads microseconds, the trace has 0.1


def read_azure(path: Path) -> list[Arrival]:
    """The Azure LLM inference traces (github.com/Azure/AzurePublicDataset): CSV with TIMESTAMP,
    ContextTokens, GeneratedTokens. The first row arrives at 0. Raises `WorkloadError`.
    """
    rows: list[tuple[datetime, int, int]] = []
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        missing = [c for c in _AZURE_COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise WorkloadError(f"{path}: no column {', '.join(missing)}; is it an Azure trace?")
        for row in reader:
            try:
                at = datetime.fromisoformat(row["TIMESTAMP"][:_DATETIME_DIGITS])
                rows.append((at, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
            except (ValueError, TypeError) as error:
                raise WorkloadError(f"{path}, line {reader.line_num}: {error}") from error
    first = min((at for at, _, _ in rows), default=datetime.min)
    arrivals = [Arrival((at - first).total_seconds(), new, out) for at, new, out in rows]
    return _checked(path, sorted(arrivals, key=lambda a: a.at_s))


class _MooncakeRow(msgspec.Struct):
    timestamp: int
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def read_mooncake(path: Path, seed: int = 0) -> list[Arrival]:
    """The Mooncake traces (github.com/kvcache-ai/Mooncake): JSON lines with timestamp (ms),
    input_length, output_length, hash_ids. Raises `WorkloadError`.

    Their time stamps are rounded to about 3 s. The requests of one stamp are spread evenly at
    random over the time to the next one, in their order; `seed` fixes the draw.
    """
    decoder = msgspec.json.Decoder(_MooncakeRow)
    rows: list[_MooncakeRow] = []
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(decoder.decode(line))
            except msgspec.MsgspecError as error:
                raise WorkloadError(f"{path}, line {number}: {error}") from error
    rows.sort(key=lambda row: row.timestamp)
    arrivals = [
        Arrival(row.timestamp / 1000, row.input_length, row.output_length, row.hash_ids)
        for row in rows
    ]
    return _checked(path, _spread(arrivals, np.random.default_rng(seed)))


def _spread(arrivals: Sequence[Arrival], rng: np.random.Generator) -> list[Arrival]:
    buckets = [list(group) for _, group in groupby(arrivals, key=lambda a: a.at_s)]
    starts = [bucket[0].at_s for bucket in buckets]
    widths = [float(width) for width in np.diff(starts)]
    widths.append(float(np.median(widths)) if widths else 0.0)  # no bucket after the last
    spread: list[Arrival] = []
    for bucket, width in zip(buckets, widths, strict=True):
        offsets = np.sort(rng.uniform(0.0, width, len(bucket)))
        spread += [replace(a, at_s=a.at_s + float(x)) for a, x in zip(bucket, offsets, strict=True)]
    return spread


def _checked(path: Path, arrivals: list[Arrival]) -> list[Arrival]:
    if not arrivals:
        raise WorkloadError(f"{path}: no requests in it")
    for number, arrival in enumerate(arrivals, 1):
        if arrival.prompt_tokens < 1 or arrival.output_tokens < 1:
            raise WorkloadError(
                f"{path}, request {number} by time: lengths must be at least 1, not "
                f"{arrival.prompt_tokens} and {arrival.output_tokens}"
            )
    return arrivals
