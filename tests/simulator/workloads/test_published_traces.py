"""The published traces themselves, where `$SHUNTER_DATA` has them."""

import os
from pathlib import Path

import numpy as np
import pytest

from shunter_simulator.workloads import load_workload, prefix_bound
from shunter_simulator.workloads.hexgen import read_hexgen

DATA = Path(os.environ.get("SHUNTER_DATA", "nowhere"))
needs = {
    name: pytest.mark.skipif(not (DATA / name).exists(), reason=f"no {name} in $SHUNTER_DATA")
    for name in ("azure/conv.csv.gz", "mooncake/conversation.jsonl.gz", "hexgen/trace1.json.gz")
}


@pytest.mark.traces
@needs["azure/conv.csv.gz"]
def test_the_azure_trace_reads_as_published() -> None:
    arrivals = load_workload("azure", data_folder=DATA)
    assert len(arrivals) == 19_366
    assert 58 * 60 < arrivals[-1].at_s < 59 * 60
    assert np.mean([a.prompt_tokens for a in arrivals]) == pytest.approx(1155, abs=1)
    assert np.mean([a.output_tokens for a in arrivals]) == pytest.approx(211, abs=1)


@pytest.mark.traces
@needs["mooncake/conversation.jsonl.gz"]
def test_the_mooncake_trace_has_its_lengths_and_its_shared_prefixes() -> None:
    arrivals = load_workload("mooncake", data_folder=DATA)
    assert len(arrivals) == 12_031
    assert np.mean([a.prompt_tokens for a in arrivals]) == pytest.approx(12_035, abs=1)
    gaps = np.diff([a.at_s for a in arrivals])
    assert (gaps == 0).mean() < 0.001  # spread out, no longer bunched on time stamps
    # 36.6 % of the blocks: the last block of a prompt is seldom full
    assert prefix_bound(arrivals, 512) == pytest.approx(0.374, abs=0.001)


@pytest.mark.traces
@needs["hexgen/trace1.json.gz"]
def test_hexgens_queries_have_their_calls_and_fan_out() -> None:
    queries = read_hexgen(DATA / "hexgen/trace1.json.gz")
    assert (len(queries), sum(len(s.calls) for q in queries for s in q)) == (90, 1732)
    for query in queries:
        drafts = [len(s.calls) for s in query if s.name == "generate_candidate"]
        assert drafts == [2]
        assert all(len(s.calls) == 1 for s in query if s.name in ("revise", "unit_tester"))
