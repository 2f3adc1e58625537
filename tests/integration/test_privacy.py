"""No prompt, answer or key appears in any log, metric or explanation."""

import asyncio
import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
import yaml

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, stream

KEY = "sk-test-4f1d9a27c3"
SECRET = "zanzibarquartz"


def keys_file(folder: Path) -> Path:
    path = folder / "keys.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(yaml.safe_dump([{"name": "test", "sha256": digest, "tenant": "acme"}]))
    return path


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


async def test_secrets_stay_out_of_logs(
    start_system: Callable[..., System], tmp_path: Path
) -> None:
    system = start_system(
        EngineSpec("a"),
        EngineSpec("b"),
        gateway_args=("--api-keys", str(keys_file(tmp_path))),
    )
    async with client(system.url, "sk-wrong-" + SECRET) as api:
        with pytest.raises(openai.AuthenticationError):
            await stream(api, Answer(SECRET), "chat", 5)
    async with client(system.url, KEY) as api, asyncio.TaskGroup() as group:
        answer = Answer(f"{SECRET} is a word that no log may hold")
        group.create_task(stream(api, answer, "chat", 300))
        await all_in_mid_answer([answer], 5)
        running = await asyncio.to_thread(system.running)
        await asyncio.to_thread(system.kill, max(running, key=lambda name: running[name]))
    with system.scheduler() as stub:
        explanation = str(stub.Explain(pb.ExplainRequest(request_id=answer.request_id)))
    seen = [explanation, await asyncio.to_thread(get, f"{system.url}/metrics")]
    seen += [path.read_text() for path in system.folder.glob("*.log")]
    assert len(seen) >= 6
    assert answer.request_id in "".join(seen)
    answer_words = " ".join(answer.text.split()[:4])
    for text in seen:
        assert SECRET not in text
        assert KEY not in text
        assert answer_words not in text
