"""The finished cells of an experiment as a table, and comparisons between its policies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

from experiments.cells import Cell, Outcome, Store
from experiments.intervals import Interval, difference, mean, median, ratio


@dataclass(frozen=True, slots=True)
class Outcomes:
    """By (policy, load), then by seed. Policies and loads keep the order of the cells."""

    rows: Mapping[tuple[str, str], Mapping[int, Outcome]]

    @staticmethod
    def of(cells: Iterable[Cell], store: Store) -> "Outcomes":
        rows: dict[tuple[str, str], dict[int, Outcome]] = {}
        for cell in cells:
            if outcome := store.find(cell):
                rows.setdefault((cell.policy, cell.load), {})[cell.seed] = outcome
        return Outcomes(rows)

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(policy for policy, _ in self.rows))

    @property
    def loads(self) -> list[str]:
        return list(dict.fromkeys(load for _, load in self.rows))

    @property
    def notes(self) -> list[str]:
        outcomes = (o for by_seed in self.rows.values() for o in by_seed.values())
        return list(dict.fromkeys(o.note for o in outcomes if o.note))

    def seeds(self, load: str, *policies: str) -> list[int]:
        """Those that all the policies have run, in order."""
        common = set.intersection(*(set(self.rows.get((p, load), {})) for p in policies))
        return sorted(common)

    def values(self, policy: str, load: str, metric: str, seeds: Iterable[int]) -> list[float]:
        by_seed = self.rows[policy, load]
        return [by_seed[seed].metrics[metric] for seed in seeds]

    def median(self, policy: str, load: str, metric: str) -> Interval:
        return median(self.values(policy, load, metric, self.seeds(load, policy)))

    def ratio(self, ours: str, theirs: str, load: str, metric: str) -> Interval:
        return ratio(*self._pairs(ours, theirs, load, metric))

    def difference(self, ours: str, theirs: str, load: str, metric: str) -> Interval:
        return difference(*self._pairs(ours, theirs, load, metric))

    def mean_ratio(self, ours: str, theirs: str, loads: Sequence[str], metric: str) -> Interval:
        """Over seeds: each seed's geometric mean over the loads, so that loads weigh alike and
        seeds, not cells, are what is independent."""
        per_seed = self._per_seed(ours, theirs, loads, metric, lambda a, b: log(a / b))
        logs = mean(per_seed)
        return Interval(exp(logs.value), exp(logs.low), exp(min(700.0, logs.high)), logs.pairs)

    def mean_difference(
        self, ours: str, theirs: str, loads: Sequence[str], metric: str
    ) -> Interval:
        return mean(self._per_seed(ours, theirs, loads, metric, lambda a, b: a - b))

    def strongest(
        self, candidates: Sequence[str], loads: Sequence[str], metric: str, *, lower: bool = True
    ) -> str:
        """The candidate that is best in `metric` over all of `loads`, each seed and load weighing
        alike. Raises ValueError where none has run on all of them."""
        scores = {
            name: self._score(name, loads, metric)
            for name in candidates
            if all(self.rows.get((name, load)) for load in loads)
        }
        if not scores:
            raise ValueError(f"none of {', '.join(candidates)} has run on {', '.join(loads)}")
        return (min if lower else max)(scores, key=lambda name: scores[name])

    def _score(self, policy: str, loads: Sequence[str], metric: str) -> float:
        figures = [
            figure
            for load in loads
            for figure in self.values(policy, load, metric, self.seeds(load, policy))
        ]
        if all(isfinite(f) and f > 0 for f in figures):
            return mean([log(figure) for figure in figures]).value
        return mean(figures).value

    def _pairs(
        self, ours: str, theirs: str, load: str, metric: str
    ) -> tuple[list[float], list[float]]:
        seeds = self.seeds(load, ours, theirs)
        return self.values(ours, load, metric, seeds), self.values(theirs, load, metric, seeds)

    def _per_seed(
        self,
        ours: str,
        theirs: str,
        loads: Sequence[str],
        metric: str,
        of: Callable[[float, float], float],
    ) -> list[float]:
        common = set.intersection(*(set(self.seeds(load, ours, theirs)) for load in loads))
        seeds = sorted(common)
        if not seeds:
            raise ValueError(f"{ours} and {theirs} share no seed on all of {', '.join(loads)}")
        columns = [
            [
                of(a, b)
                for a, b in zip(
                    self.values(ours, load, metric, seeds),
                    self.values(theirs, load, metric, seeds),
                    strict=True,
                )
            ]
            for load in loads
        ]
        return [sum(column) / len(loads) for column in zip(*columns, strict=True)]
