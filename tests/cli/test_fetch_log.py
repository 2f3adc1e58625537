"""A download's log: a line when something new begins, every ten seconds, and at the end."""

import structlog

from shunter.fetch_log import FetchLog


def test_a_line_now_and_then() -> None:
    now = 0.0
    with structlog.testing.capture_logs() as lines:
        log = FetchLog(clock=lambda: now)
        log("waiting for the download by pod-a", 0, None)
        for second in range(1, 26):
            now = float(second)
            log("downloading weights", second * 100, 2500)
    told = [(line["what"], line.get("percent"), line.get("bytes_per_s")) for line in lines]
    assert told == [
        ("waiting for the download by pod-a", None, None),
        ("downloading weights", 4, None),
        ("downloading weights", 44, 100),
        ("downloading weights", 84, 100),
        ("downloading weights", 100, 100),
    ]
