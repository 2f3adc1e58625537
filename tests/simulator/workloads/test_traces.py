import gzip
from pathlib import Path

import pytest

from shunter_simulator.workloads import WorkloadError, read_azure, read_mooncake

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:48.2224670,879,55
"""


def mooncake_row(timestamp: int, input_length: int = 600, hash_ids: str = "[0, 1]") -> str:
    return (
        f'{{"timestamp": {timestamp}, "input_length": {input_length}, "output_length": 5, '
        f'"hash_ids": {hash_ids}}}\n'
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_azure_rows_arrive_in_time_order_from_zero(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / ("t.csv.gz" if compressed else "t.csv")
    path.write_bytes(gzip.compress(AZURE.encode()) if compressed else AZURE.encode())
    arrivals = read_azure(path)
    assert [a.at_s for a in arrivals] == pytest.approx([0, 1.541877, 4.314579], abs=1e-6)
    assert [(a.prompt_tokens, a.output_tokens) for a in arrivals] == [
        (374, 44),
        (879, 55),
        (396, 109),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        (AZURE + "yesterday,1,1\n", "line 5: Invalid isoformat"),
        (AZURE + "2023-11-16 18:15:48.2224670,many,1\n", "line 5: invalid literal"),
        (AZURE + "2023-11-16 18:15:48.2224670,5\n", "line 5: "),
        (AZURE + "2023-11-16 18:15:48.2224670,5,0\n", "at least 1, not 5 and 0"),
        (AZURE.splitlines()[0], "no requests in it"),
    ],
)
def test_a_bad_azure_file_is_refused_with_its_place(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(WorkloadError, match=rf"bad\.csv.*{message}"):
        read_azure(path)


def test_mooncake_arrivals_are_spread_over_their_time_stamps_bucket(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    stamps = [0] * 50 + [3000] * 30 + [6000] * 20
    path.write_text("".join(mooncake_row(t, 600 + i) for i, t in enumerate(stamps)))
    arrivals = read_mooncake(path)
    assert [a.prompt_tokens for a in arrivals] == list(range(600, 700))  # the order stays
    times = [a.at_s for a in arrivals]
    assert times == sorted(times)
    assert len(set(times)) == 100
    for low, group in ((0, times[:50]), (3, times[50:80]), (6, times[80:])):
        assert low <= group[0] < low + 1
        assert low + 2 < group[-1] < low + 3
    assert read_mooncake(path) == arrivals
    assert [a.at_s for a in read_mooncake(path, seed=1)] != times
    assert arrivals[0].prefix_blocks == (0, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: "), ('{"timestamp": 5}', "line 2: .*input_length"), ("[]", "line 2: ")],
)
def test_a_bad_mooncake_file_is_refused_with_its_place(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(mooncake_row(0) + line + "\n")
    with pytest.raises(WorkloadError, match=rf"bad\.jsonl, {message}"):
        read_mooncake(path)


def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_text(AZURE)
    with pytest.raises(WorkloadError, match=r"t\.csv\.gz: Not a gzipped file"):
        read_azure(path)
