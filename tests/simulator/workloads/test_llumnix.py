import numpy as np
import pytest

from shunter_simulator.workloads import Arrival
from shunter_simulator.workloads.llumnix import LENGTHS, PAPER_SEED, LlumnixTrace
from shunter_simulator.workloads.quantiles import QuantileTable

# Table 1 of the paper: mean asked for, P50, P80, P95, P99.
PAPER = {
    "S": (128, [38, 113, 413, 1464]),
    "M": (256, [32, 173, 1288, 4208]),
    "L": (512, [55, 582, 3113, 5166]),
}


def quantiles(lengths: list[int], shares: list[float]) -> list[float]:
    found: list[float] = np.quantile(lengths, shares, method="inverted_cdf").tolist()
    return found


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_seed_gives_every_quantile_that_the_paper_prints(name: str) -> None:
    arrivals = LlumnixTrace(name, "S", 10_000, 1.0).draw()
    mean, expected = PAPER[name]
    lengths = [a.prompt_tokens for a in arrivals]
    assert quantiles(lengths, [0.5, 0.8, 0.95, 0.99]) == expected
    assert np.mean(lengths) == pytest.approx(mean, rel=0.02)  # 6,144 caps the longest


def test_answers_and_gaps_follow_the_prompts_in_one_stream() -> None:
    legacy = np.random.RandomState(PAPER_SEED)
    prompts, outputs = LENGTHS["L"][0](legacy, 100), LENGTHS["S"][1](legacy, 100)
    gaps = [legacy.exponential(1 / 3.0) for _ in range(100)]  # the client draws one at a time
    arrivals = LlumnixTrace("L", "S", 100, 3.0).draw()
    assert [a.prompt_tokens for a in arrivals] == prompts.tolist()
    assert [a.output_tokens for a in arrivals] == outputs.tolist()
    assert [a.at_s for a in arrivals] == pytest.approx([0, *np.cumsum(gaps)[:-1]])


@pytest.mark.parametrize("cv", [1.0, 2.0, 8.0])
def test_gaps_have_the_rate_and_the_variation_asked_for(cv: float) -> None:
    gaps = np.diff([a.at_s for a in LlumnixTrace("S", "S", 200_000, 26.0, cv).draw(3)])
    assert gaps.mean() == pytest.approx(1 / 26, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.08)


def test_a_tenth_is_of_high_priority_whatever_the_rate() -> None:
    def marked(rate_per_s: float) -> list[bool]:
        trace = LlumnixTrace("S", "S", 10_000, rate_per_s, high_share=0.1, high_class="gold")
        return [a.slo_class == "gold" for a in trace.draw(5)]

    assert sum(marked(26.0)) == pytest.approx(1000, abs=100)
    assert marked(26.0) == marked(30.0)


def test_a_seed_gives_the_same_requests_and_another_gives_others() -> None:
    def draw(seed: int) -> list[Arrival]:
        return LlumnixTrace("M", "L", 500, 7.4, 2.0, 0.1).draw(seed)

    assert draw(4) == draw(4)
    assert draw(4) != draw(5)


TABLES = {
    "sharegpt in": QuantileTable(306, 74, 348, 1484, 3388),
    "sharegpt out": QuantileTable(500, 487, 781, 988, 1234),
    "burstgpt in": QuantileTable(830, 582, 1427, 2345, 3549),
    "burstgpt out": QuantileTable(271, 243, 434, 669, 964),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_lengths_of_a_table_have_its_quantiles_and_its_mean(table: QuantileTable) -> None:
    uniform = (np.arange(100_000) + 0.5) / 100_000
    lengths = table.lengths(uniform)
    found = quantiles(lengths.tolist(), [0.5, 0.8, 0.95, 0.99])
    assert found == pytest.approx([table.p50, table.p80, table.p95, table.p99], abs=1)
    assert lengths.mean() == pytest.approx(table.mean, rel=0.01)
    assert lengths.min() >= 1


def test_sharegpt_draws_prompts_and_answers_from_their_own_tables() -> None:
    arrivals = LlumnixTrace("sharegpt", "sharegpt", 20_000, 7.5).draw(1)
    assert np.median([a.prompt_tokens for a in arrivals]) == pytest.approx(74, rel=0.1)
    assert np.median([a.output_tokens for a in arrivals]) == pytest.approx(487, rel=0.05)
