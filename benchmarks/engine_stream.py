"""CPU per streamed token of `shunter engine`: `python benchmarks/engine_stream.py`.

The simulated backend without waiting, over loopback, one row per number of streams. The ratio is to
the same engine stepped in this process without server, tokenizer and sockets.
"""

import asyncio
import json
import math
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.options import EngineOptions
from shunter_engine.testing import engine_process, simulated_parts

PROMPT = list(range(10, 200))
ROWS = ((1, 4000), (8, 2000), (64, 500), (256, 200), (2000, 40))


class Counter:
    def __init__(self, expected: int) -> None:
        self.missing = expected
        self.done = asyncio.Event()

    def on_token(self, event: TokenEvent) -> None:
        self.missing -= 1
        if not self.missing:
            self.done.set()


async def bare(streams: int, tokens: int) -> float:
    """CPU seconds per token of the step model alone."""
    options = EngineOptions(speed=math.inf, max_num_seqs=2048, max_waiting=4096)
    backend = simulated_parts(options).backend
    counter = Counter(streams * tokens)
    start_s = time.process_time()
    await backend.start()
    for index in range(streams):
        sampling = Sampling(ignore_eos=True, seed=index)
        request = SequenceRequest(str(index), tuple(PROMPT), 0, tokens, 0, sampling)
        backend.submit(request, counter)
    async with asyncio.timeout(120):
        await counter.done.wait()
    await backend.stop()
    return (time.process_time() - start_s) / (streams * tokens)


async def read_stream(host: str, port: int, tokens: int, seed: int) -> int:
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    data = json.dumps({**body, "return_token_ids": True, "seed": seed}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n" % len(data)
    writer.write(head + data)
    received = bytearray()
    while not received.endswith(b"0\r\n\r\n"):
        received += await reader.read(1 << 18)
    writer.close()
    return received.count(b'"token_ids":[')


async def served(url: str, streams: int, tokens: int) -> int:
    host, _, port = url.removeprefix("http://").partition(":")
    counts = await asyncio.gather(
        *(read_stream(host, int(port), tokens, seed) for seed in range(streams))
    )
    return sum(counts)


def main() -> None:
    print("| streams | tokens | tokens/s (wall) | CPU us/token | bare engine us/token | ratio |")
    print("|---|---|---|---|---|---|")
    flags = ("--speed", "inf", "--max-num-seqs", "2048", "--max-waiting", "4096")
    with (
        tempfile.TemporaryDirectory() as folder,
        engine_process(Path(folder), *flags) as engine,
    ):
        process = psutil.Process(engine.process.pid)
        for streams, tokens in ROWS:
            before, start_s = sum(process.cpu_times()[:2]), time.perf_counter()
            count = uvloop.run(served(engine.url, streams, tokens))
            wall_s = time.perf_counter() - start_s
            assert count == streams * tokens, f"{count} of {streams * tokens} tokens arrived"
            cpu_us = (sum(process.cpu_times()[:2]) - before) / count * 1e6
            bare_us = uvloop.run(bare(streams, tokens)) * 1e6
            print(
                f"| {streams} | {count} | {count / wall_s:,.0f} | {cpu_us:.1f} | {bare_us:.1f} "
                f"| {cpu_us / bare_us:.1f} |"
            )
        print(f"\nresident memory at the end: {process.memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
