"""What a pod waits for before its engine is told to stop. Pure.

The scheduler moves requests away from a pod as soon as its deletion is asked for; only once they
have gone may the engine end. Where a hook cannot run, the engine is told to stop at once.
"""

from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_operator.engines import engine_port

# How long an engine that does not tell what it has to do is given to get rid of it; many such
# servers bring what they have begun to its end when they are told to stop.
BLIND_WAIT_S = 10

# Both wait until the engine has nothing to do, at most so many seconds. Two idle looks in a row,
# since a request may be on its way. An engine that is slow to answer is busy; proxies that the
# engine is given for its downloads do not concern us.
_PYTHON = """\
import re, sys, time, urllib.request
url, end, idle = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
while time.monotonic() < end and idle < 2:
    time.sleep(1)
    try:
        text = ask(url, timeout=2).read().decode()
    except OSError as error:
        if not isinstance(getattr(error, "reason", error), TimeoutError):
            break
        idle = 0
        continue
    busy = re.findall(
        r"^(?:vllm|sglang):num_(?:requests_(?:running|waiting)|(?:running|queue)_reqs)"
        r"(?:{[^}]*})? (\\S+)", text, re.M)
    idle = idle + 1 if not any(float(n) for n in busy) else 0
"""
# llama.cpp's server image has no Python, but curl, for its own health check.
_SHELL = """\
end=$(($(date +%s) + $2)) idle=0
while [ "$(date +%s)" -lt "$end" ] && [ "$idle" -lt 2 ]; do
  sleep 1
  text=$(curl --silent --fail --noproxy '*' --max-time 2 "$1")
  case $? in 0) ;; 28) idle=0; continue ;; *) break ;; esac
  idle=$((idle + 1))
  if echo "$text" | grep -q '^llamacpp:requests_[a-z]* [^0]'; then idle=0; fi
done
"""


def lifecycle(pool: ModelPool) -> dict[str, Any]:
    """Of the engine's container. The pod's grace period is longer than any wait."""
    return {"preStop": {"exec": {"command": _wait(pool)}}}


def _wait(pool: ModelPool) -> list[str]:
    wait_s = int(pool.migration.drain_timeout_s)
    at_most = [f"http://127.0.0.1:{engine_port(pool)}/metrics", str(wait_s)]
    match pool.engine_type:
        case "simulated" | "numpy" | "vllm" | "sglang":
            return ["python3", "-c", _PYTHON, *at_most]
        case "llamacpp":
            return ["sh", "-c", _SHELL, "sh", *at_most]
        case "openai":
            return ["sleep", str(min(BLIND_WAIT_S, wait_s))]
