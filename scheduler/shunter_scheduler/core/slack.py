"""When a request has to start to meet what its class, its workflow and its client ask for."""

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.state import CoreState

PATIENCE_S = 30.0  # of a class that has neither a deadline nor a TTFT target


def find_slack(state: CoreState, entry: Entry) -> None:
    """Sets the latest start: deadline minus predicted service time. A class's deadline bounds a
    workflow's stage too, and so does the request's own. The class's TTFT target counts beside a
    deadline, but for a stage: of a workflow only the end matters, so that no stage is given up."""
    request, slo_class, model = entry.request, entry.slo_class, entry.pool.typical_model()
    tokens, arrived_at, ttft_s = entry.context_tokens, request.arrived_at, slo_class.ttft_s
    first_token_s = model.rates.prefill_s(tokens) if model else 0.0
    deadline_at = request.deadline_at
    if deadline_at is None and slo_class.deadline_s is not None:
        deadline_at = arrived_at + slo_class.deadline_s
    staged = False
    if request.workflow or request.workflow_deadline_at is not None:
        stage_at = state.workflows.stage_deadline_at(request)
        if stage_at is not None:
            ttft_s, staged = None, True
            if deadline_at is None or stage_at < deadline_at:
                deadline_at = stage_at
    if not staged and (deadline_at is not None or ttft_s is not None):
        entry.target_work_s = first_token_s
    if deadline_at is None:
        entry.latest_start_at = arrived_at + (ttft_s or PATIENCE_S) - first_token_s
        return
    per_token_s = model.decode_step_s(16, 16 * tokens) if model else 0.0  # in a middling batch
    latest_at = deadline_at - first_token_s - entry.expected_tokens * per_token_s
    if ttft_s is not None:
        latest_at = min(latest_at, arrived_at + ttft_s - first_token_s)
    entry.latest_start_at = latest_at
