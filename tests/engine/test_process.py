"""`python -m shunter_engine` as a process of its own."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from shunter_engine.testing import complete, engine_metrics, engine_process, stream_answer

COMPLETIONS = "/v1/completions"


async def test_serves_says_nothing_of_prompts_and_stops(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    secret = "a very secret sentence"
    with engine_process(tmp_path, "--served-name", "m", "--speed", "2") as engine:
        answer = await stream_answer(
            client, engine.url + COMPLETIONS, model="m", prompt=secret, max_tokens=5
        )
        await complete(client, engine.url + COMPLETIONS, prompt=secret, max_tokens=-1)
        call = asyncio.create_task(
            complete(client, engine.url + COMPLETIONS, prompt=secret, ignore_eos=True)
        )
        while (await engine_metrics(client, engine.url))["vllm:num_requests_running", ""] == 0:
            await asyncio.sleep(0.01)
        engine.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(engine.process.wait, 10)
        with pytest.raises(aiohttp.ClientConnectionError):
            await call
    log = engine.log.read_text()
    assert status == 0
    assert answer.done
    assert '"event": "ready"' in log
    assert "secret" not in log
    assert "Traceback" not in log


async def test_kill_after_tokens(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    with engine_process(tmp_path, "--speed", "50", "--allow-faults") as engine:
        await complete(client, f"{engine.url}/faults", kind="kill", after_tokens=10)
        with pytest.raises(aiohttp.ClientError):
            await stream_answer(
                client, engine.url + COMPLETIONS, prompt="x", max_tokens=1000, ignore_eos=True
            )
        assert await asyncio.to_thread(engine.process.wait, 10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--model", "sim://llama-9"), "no architecture is known"),
        (("--accelerator", "h101"), "h101"),
        (("--model", "sim://llama-3.1-70b", "--accelerator", "l4-24gb"), "raise tensorParallel"),
        (("--backend", "numpy", "--model", "file:///not/there.gguf"), "/not/there.gguf"),
    ],
)
def test_what_cannot_start_says_why(flags: tuple[str, ...], complaint: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "shunter_engine", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
