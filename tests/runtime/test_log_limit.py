"""One line a minute for what happens many times a second."""

import structlog
from structlog.testing import capture_logs

from shunter_runtime.log_limit import LimitedLog


def test_an_event_is_written_once_a_minute_with_what_was_left_out() -> None:
    now = [0.0]
    with capture_logs() as lines:
        log = LimitedLog(structlog.get_logger(), lambda: now[0])
        for now[0] in (0.0, 1.0, 59.9, 60.0, 61.0, 200.0, 300.0):
            log.warning("kv_events.refused", at_s=now[0])
    seen = [(line["at_s"], line.get("left_out")) for line in lines]
    assert seen == [(0.0, None), (60.0, 2), (200.0, 1), (300.0, None)]


def test_events_are_limited_each_by_itself_and_keep_their_level() -> None:
    with capture_logs() as lines:
        log = LimitedLog(structlog.get_logger(), lambda: 0.0)
        log.warning("refused", instance="a")
        log.info("gap", instance="a")
        try:
            raise RuntimeError
        except RuntimeError:
            log.exception("failed", instance="a")
            log.exception("failed", instance="a")
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("refused", "warning"),
        ("gap", "info"),
        ("failed", "error"),
    ]
