"""Certificates: what is stored when, and that nobody is ever served one that is not trusted."""

import base64
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_operator.admission.certificates import (
    BACKDATE,
    LIFE,
    RENEW_BEFORE,
    SETTLE,
    Pair,
    Stored,
    ends,
    issue,
    read,
    renewed,
    usable,
    wait,
    written,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOSTS = ("shunter-webhook.serving.svc", "10.0.0.1")
DAY = timedelta(days=1)
FIRST = issue(HOSTS, NOW)


def stored_again(stored: Stored) -> Stored:
    """As the API server gives back what was patched."""
    return read({name: text for name, text in written(stored).items() if text is not None})


def refused(hosts: Sequence[str], now: datetime) -> Pair:
    raise AssertionError("nothing is to be issued")


def test_openssl_accepts_the_certificate_for_its_name_only(tmp_path: Path) -> None:
    pair = issue(HOSTS, datetime.now(UTC))
    (tmp_path / "ca.pem").write_bytes(pair.authority)
    (tmp_path / "tls.pem").write_bytes(pair.certificate)

    def verified(*how: str) -> bool:
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *how]
        files = ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "tls.pem")]
        return subprocess.run([*command, *files], capture_output=True).returncode == 0

    assert verified("-verify_hostname", HOSTS[0])
    assert verified("-verify_ip", HOSTS[1])
    assert not verified("-verify_hostname", "gateway.serving.svc")


def test_what_is_stored_is_what_is_read() -> None:
    whole = Stored(FIRST, issue(HOSTS, NOW), b"old")
    assert stored_again(whole) == whole
    assert stored_again(Stored(FIRST)) == Stored(FIRST)
    assert written(Stored(FIRST))["next.key"] is None


@pytest.mark.parametrize("data", [{}, {"tls.crt": "%"}, {"tls.crt": "", "tls.key": ""}])
def test_an_empty_or_broken_secret_is_filled(data: dict[str, str]) -> None:
    made = renewed(read(data), False, HOSTS, NOW, issue)
    assert made.current is not None and usable(made.current, HOSTS, NOW)
    assert made.next is None
    assert renewed(made, False, HOSTS, NOW, refused) == made


@pytest.mark.parametrize(
    "broken",
    [
        replace(FIRST, certificate=b"no PEM"),
        replace(FIRST, key=issue(HOSTS, NOW).key),
        replace(FIRST, authority=issue(HOSTS, NOW).authority),
        replace(FIRST, authority=b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"),
        issue(HOSTS[:1], NOW),
        issue(HOSTS, NOW - LIFE),
        issue(HOSTS, NOW + 2 * BACKDATE),
    ],
    ids=["no PEM", "another key", "another authority", "broken authority", "a host less",
         "expired", "of the future"],
)  # fmt: skip
def test_a_pair_that_no_server_would_accept_is_replaced(broken: Pair) -> None:
    assert usable(FIRST, HOSTS, NOW) and not usable(broken, HOSTS, NOW)
    made = renewed(Stored(broken), True, HOSTS, NOW, issue)
    assert made.current is not None and usable(made.current, HOSTS, NOW)
    assert made.previous_authority == broken.authority


def test_a_renewal_step_by_step() -> None:
    first = Stored(FIRST)
    assert wait(first, NOW) == LIFE - RENEW_BEFORE
    due = ends(FIRST) - RENEW_BEFORE
    assert renewed(first, True, HOSTS, due - timedelta(seconds=1), refused) == first
    both = renewed(first, True, HOSTS, due, issue)
    assert both.current == FIRST and both.next is not None
    assert both.bundle == FIRST.authority + both.next.authority
    assert wait(both, due) == SETTLE
    # Not before the API server has the new authority, and all have heard of it.
    assert renewed(both, False, HOSTS, due + DAY, refused) == both
    assert renewed(both, True, HOSTS, due + SETTLE - timedelta(seconds=1), refused) == both
    after = renewed(both, True, HOSTS, due + SETTLE, refused)
    assert after == Stored(both.next, None, FIRST.authority)
    assert after.bundle == both.next.authority + FIRST.authority
    assert renewed(after, True, HOSTS, due + DAY, refused) == after


@pytest.mark.parametrize("ahead", [timedelta(hours=14), 3 * DAY])
def test_replicas_whose_clocks_disagree_do_not_write_against_each_other(ahead: timedelta) -> None:
    """The one that is ahead renews first; for the other what it made may be of the future."""
    due = ends(FIRST) - RENEW_BEFORE
    both = renewed(Stored(FIRST), True, HOSTS, due, issue)
    assert both.next is not None
    behind = due - ahead
    assert renewed(both, True, HOSTS, behind, refused) == both
    assert wait(both, behind) == ahead + SETTLE
    broken = replace(both, current=replace(FIRST, key=b"lost"))
    made = renewed(broken, True, HOSTS, behind, issue)
    assert made.current is not None and usable(made.current, HOSTS, behind)


def test_a_clock_that_is_set_to_another_time_zone_does_not_matter() -> None:
    """API servers judge a certificate by their own clocks."""
    assert usable(issue(HOSTS, NOW + timedelta(hours=14)), HOSTS, NOW)


def test_after_months_without_an_operator_it_starts_anew() -> None:
    late = ends(FIRST) + DAY
    made = renewed(Stored(FIRST), True, HOSTS, late, issue)
    assert made.current != FIRST and made.current is not None
    assert usable(made.current, HOSTS, late)


def test_a_pair_that_waited_takes_over_from_one_that_broke() -> None:
    coming = issue(HOSTS, NOW)
    broken = replace(FIRST, key=b"lost")
    made = renewed(Stored(broken, coming), False, HOSTS, NOW, refused)
    assert made == Stored(coming, None, FIRST.authority)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=25), st.booleans())
def test_whoever_looks_now_and_then_is_always_served_what_is_trusted(
    days: list[int], quick: bool
) -> None:
    """An API server that trusts the bundle of the last look accepts what is served after it."""
    now, stored, trusted = NOW, renewed(Stored(), False, HOSTS, NOW, issue), b""
    for pause in days:
        trusted = stored.bundle
        now += timedelta(days=pause) if quick else min(timedelta(days=pause), wait(stored, now))
        has_next = stored.next is not None and stored.next.authority in trusted
        stored = stored_again(renewed(stored, has_next, HOSTS, now, issue))
        assert stored.current is not None and usable(stored.current, HOSTS, now)
        if pause <= RENEW_BEFORE.days or not quick:
            assert stored.current.authority in trusted


def test_a_secret_holds_no_key_of_an_authority() -> None:
    held = b"".join(base64.b64decode(v) for v in written(Stored(FIRST)).values() if v)
    assert held.count(b"PRIVATE KEY-----") == 2  # one, with its begin and its end
