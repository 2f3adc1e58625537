"""What the watches make of resources that read, but ask for what cannot be had."""

import pytest

from shunter_api.validate import Known
from shunter_operator.testing import pool_body
from shunter_operator.watches import policy_record, pool_record

POLICY = {
    "apiVersion": "shunter.dev/v1alpha1",
    "kind": "RoutingPolicy",
    "metadata": {"name": "main", "namespace": "serving"},
    "spec": {"dispatch": {"policy": "round-robbin"}},
}
KNOWN = Known(lambda pool: [(("spec", "profiles", 0), "does not fit")])


@pytest.mark.parametrize("known", [KNOWN, Known()], ids=["asked", "not asked"])
def test_what_admission_would_refuse_is_told_afterwards_too(known: Known) -> None:
    """A namespaced install has no webhooks."""
    pool, policy = pool_record(pool_body(), known), policy_record(POLICY, known)
    (problem,) = policy.problems  # the schema's own
    assert policy.policy is None
    assert problem.field == "spec.dispatch.policy" and "'round-robin'" in problem.message
    if known is KNOWN:
        assert pool.pool is None
        assert [(p.field, p.message) for p in pool.problems] == [
            ("spec.profiles[0]", "does not fit")
        ]
    else:
        assert pool.pool is not None
        assert pool.problems == ()
