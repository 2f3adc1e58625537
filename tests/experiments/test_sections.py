"""Every experiment's part of the page, from made-up outcomes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from experiments.__main__ import EXPERIMENTS, _form, _parser, main
from experiments.cells import Cell, Outcome, Store, code_version
from experiments.definitions import BOUND, FORMS, FULL, SHORT, TEN, Experiment, Form
from experiments.measures import CURVE_SHARES
from experiments.outcomes import Outcomes
from experiments.page import BEGIN, END, figure, replace_generated, section_lines

from shunter_simulator.scenarios import parse_scenario

CURVES = {"ttft_s": [0.1 + n for n in range(len(CURVE_SHARES))]}
TINY = Form("tiny", seeds=3, share=0.01, extent="judged")
HIGHER_IS_BETTER = ("attainment", "goodput_per_s", "tokens_per_s", "hit_share")
TEN_OF_HALF = replace(TEN, share=0.5)
CLASSES = ("", "high.", "standard.", "interactive.", "batch.")


def made_up(cell: Cell, ours_times: float) -> Outcome:
    """Figures that grow with the seed; those of ours are `ours_times` as large, of those that are
    to be high as small."""
    factor = (1 + cell.seed / 10) * (ours_times if cell.policy == "ours" else 1.0)
    names = ["ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "decode_p99_s", "e2e_mean_s"]
    names += ["e2e_p99_s", "preemption_loss_s", "moves", "workflow_p95_s", "stall_p99_s"]
    names += ["service_gap_tokens", "suspensions", "requests", "instances_mean", "duration_s"]
    metrics = {prefix + name: 2.0 * factor for name in names for prefix in CLASSES}
    metrics |= {p + n: 0.5 / factor for n in HIGHER_IS_BETTER for p in CLASSES}
    metrics |= {"fluid_own_s": 0.0, "fluid_base_s": 1.0, "fluid_sequence_s": 1.0}
    metrics["least_engine_s"] = 3.0
    metrics["lost"] = 1.0 if cell.policy == "ours" and ours_times > 1 else 0.0
    return Outcome(metrics, note="made up", curves=CURVES)


def outcomes(experiment: Experiment, ours_times: float) -> Outcomes:
    rows: dict[tuple[str, str], dict[int, Outcome]] = {}
    for cell in experiment.cells(TINY):
        by_seed = rows.setdefault((cell.policy, cell.load), {})
        by_seed[cell.seed] = made_up(cell, ours_times)
    return Outcomes(rows)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_what_is_far_better_reaches_its_targets_and_what_is_worse_does_not(
    experiment: Experiment,
) -> None:
    better = experiment.section(outcomes(experiment, 0.25))
    worse = experiment.section(outcomes(experiment, 2.0))
    assert len(better.lines) > 5
    judged = [(a.reached, b.reached) for a, b in zip(better.targets, worse.targets, strict=True)]
    if experiment.name in ("llumnix-cost", "cheapest-mix"):  # no figure depends on the fleet
        return
    assert all(reached for reached, _ in judged)
    assert not judged or not all(reached for _, reached in judged)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_one_seed_and_one_policy_are_enough_for_a_page(
    experiment: Experiment, tmp_path: Path
) -> None:
    found = outcomes(experiment, 1.0).rows
    few = Outcomes({key: {0: by_seed[0]} for key, by_seed in list(found.items())[:1]})
    assert experiment.section(few).lines
    for name, draw in experiment.section(outcomes(experiment, 0.5)).plots.items():
        draw(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text().count("<path") > 3
        assert (tmp_path / f"{name}.svg").stat().st_size < 100_000


@pytest.mark.parametrize("form", [SHORT, TEN_OF_HALF, FULL], ids=FORMS)
@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_all_policies_of_a_load_see_the_same_requests_and_seeds(
    experiment: Experiment, form: Form
) -> None:
    cells = experiment.cells(form)
    assert len({(c.policy, c.load, c.seed) for c in cells}) == len(cells)
    assert {c.seed for c in cells} == set(range(form.seeds))
    workloads: dict[str, set[str]] = {}
    for cell in cells:
        if not cell.policy.endswith(("(bound)", "(oracle)")):
            workloads.setdefault(cell.load, set()).add(repr(cell.scenario["workload"]))
    assert set(Counter(map(len, workloads.values()))) == {1}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_variant_is_a_scenario(experiment: Experiment) -> None:
    texts = {c.text: c for c in experiment.cells(FULL) if c.seed == 0}
    for text in texts:
        scenario = text[text.index('"scenario": ') + len('"scenario": ') : text.rindex(', "seed"')]
        parse_scenario(scenario, "cell", lambda name: "")


BOUNDS = {  # of each experiment, the row that says what no policy can do better
    "hexgen": "alone (bound)",
    "classes": "interactive alone (oracle)",
    "failures": "ours, nothing fails (bound)",
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_bound_or_an_oracle_stands_beside_every_experiment(experiment: Experiment) -> None:
    cells = experiment.cells(TEN_OF_HALF)
    loads = {cell.load for cell in cells}
    name = BOUNDS.get(experiment.name, BOUND)
    bounded = {cell.load for cell in cells if cell.policy == name}
    assert bounded == loads or (experiment.name == "llumnix-cost" and bounded)
    text = "\n".join(experiment.section(outcomes(experiment, 0.5)).lines)
    assert name in text or "no policy can save more" in text


def test_what_is_published_has_ten_seeds() -> None:
    assert FULL.seeds >= 10 and FULL.share == 1.0 and FULL.extent == "every"
    assert TEN.seeds >= 10


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_ten_seed_form_is_a_part_of_the_full_one_and_is_judged(experiment: Experiment) -> None:
    def kinds(form: Form) -> tuple[set[str], set[str]]:
        cells = experiment.cells(form)
        return {cell.policy for cell in cells}, {cell.load for cell in cells}

    ten, full = kinds(replace(TEN, share=experiment.share)), kinds(FULL)
    assert 0 < experiment.share <= 1
    assert ten[0] <= full[0] and ten[1] <= full[1] and "ours" in ten[0]
    judged = experiment.section(outcomes(experiment, 0.25)).targets
    assert judged or experiment.name in ("llumnix-cost", "cheapest-mix")


def test_the_instances_at_a_p99_are_read_off_between_two_thresholds_seed_by_seed() -> None:
    experiment = EXPERIMENTS["llumnix-cost"]
    at_the_goal = {"INFaaS++": 12.0, "llumnix": 10.0, "ours": 9.0, "ours, by freeness": 9.5}

    def outcome(cell: Cell) -> Outcome:
        """Ten times the P99 for each instance fewer; each seed needs a tenth more of them."""
        needed = at_the_goal[cell.policy] * (1 + cell.seed / 10)
        rule = cell.scenario["autoscaling"]
        more = rule["freeness"] / 160 if "freeness" in rule else 20 * (0.9 - rule["utilisation"])
        has = needed + more
        return Outcome({"instances_mean": has, "ttft_p99_s": 4.5 * 10 ** (needed - has)})

    rows: dict[tuple[str, str], dict[int, Outcome]] = {}
    for cell in experiment.cells(TINY):
        if not cell.bound:
            rows.setdefault((cell.policy, cell.load), {})[cell.seed] = outcome(cell)
    (target,) = experiment.section(Outcomes(rows)).targets
    assert target.reached
    assert "ours 25.0 (25.0 to 25.0) %, `llumnix` 16.7 (16.7 to 16.7) %" in target.text
    swapped = {"ours": "llumnix", "llumnix": "ours"}
    rows = {(swapped.get(policy, policy), load): found for (policy, load), found in rows.items()}
    assert not experiment.section(Outcomes(rows)).targets[0].reached


def test_the_cheapest_mix_is_read_off_between_two_fleets_seed_by_seed() -> None:
    experiment = EXPERIMENTS["cheapest-mix"]
    needs = {"ours": 3, "earliest-completion": 3, "queue-kv-prefix": 5}

    def outcome(cell: Cell) -> Outcome:
        """Ten times fewer are late for each A100 more, 1 % with as many as the policy needs and
        half a one more for each seed."""
        has = cell.scenario["instances"]["chat-8b"]["a100"]
        late = 0.01 * 10 ** (needs.get(cell.policy, 99) + cell.seed / 2 - has)
        return Outcome({"attainment": 1 - min(1.0, late), "requests": 1e9})

    rows: dict[tuple[str, str], dict[int, Outcome]] = {}
    for cell in experiment.cells(TINY):
        rows.setdefault((cell.policy, cell.load), {})[cell.seed] = outcome(cell)
    section = experiment.section(Outcomes(rows))
    (ours,) = (line for line in section.lines if line.startswith("| ours"))
    assert ours.endswith("| 10.6 |")  # 5.00 for two H100 and 3.5 A100 at 1.60
    blind, best = section.targets
    # 13 / 9.8, 13.8 / 10.6 and 14.6 / 11.4.
    assert blind.reached and "`queue-kv-prefix`: 1.30 (" in blind.text
    assert not best.reached and "`earliest-completion`: 1.00 (" in best.text
    (never,) = (line for line in section.lines if line.startswith("| llumnix"))
    assert never.endswith("| more than any |")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (42.44, "42.4"), (1234.6, "1,235")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_report_replaces_only_what_it_wrote(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    store = Store(results, code_version())
    for cell in EXPERIMENTS["failures"].cells(SHORT):
        store.save(cell, made_up(cell, 0.5))
    told = ["--page", str(page), "--results", str(results)]
    assert main(["report", *told, "--only", "failures"]) == 0
    assert "2 seeds, 20% of each run's full length, some of the loads; 8 runs." in page.read_text()
    third = EXPERIMENTS["failures"].cells(replace(SHORT, seeds=3))[-1]
    store.save(third, made_up(third, 0.5))
    assert main(["report", *told, "--only", "failures", "--seeds", "3"]) == 0
    assert "2 to 3 seeds, 20% of each run's full length" in page.read_text()
    assert main(["report", *told]) == 0
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert "| Drain and failure | 2 seeds | 1 of 1 |" in text
    assert "### Drain and failure" in text and "Note: made up." in text and "- Reached: " in text
    unmarked = tmp_path / "unmarked.md"
    unmarked.write_text("nothing")
    with pytest.raises(ValueError, match="lacks"):
        replace_generated(unmarked, [])


def test_tuning_is_held_against_the_best_alpha_of_each_load() -> None:
    experiment = EXPERIMENTS["hexgen"]
    rows: dict[tuple[str, str], dict[int, Outcome]] = {}
    for cell in experiment.cells(FULL):
        p95 = {"workload-balanced": 1.04, "alpha 0.4": 1.0}.get(cell.policy, 2.0)
        rows.setdefault((cell.policy, cell.load), {})[cell.seed] = Outcome({"workflow_p95_s": p95})
    assert any(c.policy == "alpha 0.4" for c in experiment.cells(replace(TEN, share=0.1)))
    first = experiment.section(Outcomes(rows)).targets[0]
    assert first.reached and "1.040 of its P95 in the mean" in first.text
    assert "alpha 0.4 is best there" in first.text


def test_lengths_can_be_set_for_all_and_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    def requests(*arguments: str, of: str = "llumnix") -> set[int]:
        options = _parser().parse_args(["run", *arguments])
        cells = EXPERIMENTS[of].cells(_form(of, options))
        return {cell.scenario["workload"]["requests"] for cell in cells}

    assert requests() == {2000}
    assert requests("--form", "full") == {10_000}
    assert requests("--form", "ten") == {10_000}
    assert requests("--form", "ten", of="llumnix-saturation") == {3000}
    assert requests("--form", "ten", "--share", "llumnix=0.1") == {1000}
    assert requests("--share", "0.1", "llumnix=0.5") == {5000}
    assert requests("--share", "0.1", "hexgen=0.5") == {1000}
    with pytest.raises(SystemExit):
        requests("--share", "llama=0.5")
    assert "llama is none of llumnix," in capsys.readouterr().err


def test_an_unreached_target_says_so() -> None:
    experiment = EXPERIMENTS["failures"]
    lines = section_lines(experiment.section(outcomes(experiment, 2.0)), "", "plots")
    assert any(line.startswith("- **Not reached**: no request lost") for line in lines)


def test_what_is_refused_when_nothing_fails_is_not_lost() -> None:
    experiment = EXPERIMENTS["failures"]
    measured = outcomes(experiment, 0.25)
    for by_seed in measured.rows.values():
        for outcome in by_seed.values():
            outcome.metrics["lost"] = 1.0
    assert [t.reached for t in experiment.section(measured).targets] == [True]
