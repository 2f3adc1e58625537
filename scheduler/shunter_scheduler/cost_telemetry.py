"""Metrics of the cost model: how well the times of each profile are predicted."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shunter_scheduler.domain.status import CostStatus

_LABELS = ("pool", "profile", "kind")


def cost_metrics(costs: Iterable[CostStatus]) -> tuple[Metric, ...]:
    observations = CounterMetricFamily(
        "shunter_cost_model_observations",
        "Observed times that corrected predictions.",
        labels=_LABELS,
    )
    correction = GaugeMetricFamily(
        "shunter_cost_model_correction_ratio",
        "Predicted time over what the data sheets gave, at a middling prompt or batch.",
        labels=_LABELS,
    )
    error = GaugeMetricFamily(
        "shunter_cost_model_error_ratio",
        "Mean of |observed - predicted| over predicted, lately.",
        labels=_LABELS,
    )
    standard_error = GaugeMetricFamily(
        "shunter_cost_model_standard_error_ratio",
        "Relative standard error of the predicted mean at a middling prompt or batch.",
        labels=_LABELS,
    )
    for cost in costs:
        labels = [cost.pool, cost.profile, cost.kind]
        observations.add_metric(labels, cost.observations)
        correction.add_metric(labels, cost.correction)
        error.add_metric(labels, cost.error_ratio)
        standard_error.add_metric(labels, cost.standard_error_ratio)
    return observations, correction, error, standard_error
