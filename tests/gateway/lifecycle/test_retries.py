"""The retry budget: first retries are free, later ones are bounded by the pool's traffic."""

from shunter_gateway.dispatcher_retries import RetryBudget


def test_first_retry_of_each_request_is_free() -> None:
    budget = RetryBudget()
    assert all(budget.allow("p", 1, 0.0) for _ in range(1000))


def test_later_retries_are_a_tenth_of_the_requests_of_the_last_ten_seconds() -> None:
    budget = RetryBudget()
    for number in range(500):
        budget.count_request("p", number / 100)
    assert sum(budget.allow("p", 2, 5.0) for _ in range(200)) == 50
    assert not budget.allow("p", 3, 5.0)
    assert budget.allow("other", 2, 5.0)
    assert sum(budget.allow("p", 2, 16.0) for _ in range(200)) == RetryBudget.FLOOR
