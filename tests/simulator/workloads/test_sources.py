from pathlib import Path

import pytest

from shunter_simulator.workloads import Arrival, WorkloadError, load_workload, scale, window

ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{s:02}.0000000,{100 + s},5\n" for s in range(50)
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "azure").mkdir()
    (tmp_path / "azure" / "conv.csv").write_text(ROWS)
    return tmp_path


def test_a_window_of_a_trace_begins_at_zero(data: Path) -> None:
    arrivals = load_workload(
        f"azure:{data}/azure/conv.csv", start_s=10, duration_s=3, data_folder=None
    )
    assert arrivals == [Arrival(float(i), 110 + i, 5) for i in range(3)]


def test_relative_files_are_looked_for_in_the_data_folder(data: Path) -> None:
    assert len(load_workload("azure:azure/conv.csv", data_folder=data)) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("azure", "conv.csv.gz does not exist; write azure:FILE or set SHUNTER_DATA"),
        ("mooncake:nowhere.jsonl", "nowhere.jsonl does not exist; give another file"),
        ("burst:rate=3", "not a workload; write azure:FILE"),
        ("poisson:rate", "'rate' in poisson load is not one of rate="),
        ("poisson:speed=3", "'speed=3' in poisson load is not one of rate="),
        ("poisson:rate=fast", "rate and cv must be numbers"),
        ("poisson:input=few", "'few' is not a length"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        load_workload(text, duration_s=10)


def test_a_window_after_the_end_is_refused_with_the_end(data: Path) -> None:
    with pytest.raises(WorkloadError, match="no request in that window; its last is at 49 s"):
        load_workload("azure:azure/conv.csv", start_s=100, data_folder=data)


def test_generated_load_needs_a_duration_and_obeys_its_options() -> None:
    with pytest.raises(WorkloadError, match="give a duration"):
        load_workload("poisson:rate=3")
    arrivals = load_workload("gamma:rate=20,cv=2,input=64,output=8-16", duration_s=30)
    assert 300 < len(arrivals) < 900
    assert {a.prompt_tokens for a in arrivals} == {64}
    assert {a.output_tokens for a in arrivals} == set(range(8, 17))


def test_scaling_keeps_requests_and_divides_times() -> None:
    arrivals = [Arrival(4.0, 1, 1), Arrival(10.0, 2, 2)]
    assert scale(arrivals, 4) == [Arrival(1.0, 1, 1), Arrival(2.5, 2, 2)]
    with pytest.raises(WorkloadError, match="speed must be positive"):
        scale(arrivals, 0)


def test_windows_cut_a_workload_into_parts() -> None:
    arrivals = [Arrival(t / 2, 1, 1) for t in range(20)]
    parts = [window(arrivals, start, 2.5) for start in (0, 2.5, 5, 7.5)]
    assert [len(part) for part in parts] == [5, 5, 5, 5]
    assert window(arrivals, 5) == window(arrivals, 5, 100)
