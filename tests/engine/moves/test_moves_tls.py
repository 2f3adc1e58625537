"""The moves port with certificates, and what it cannot be opened with."""

from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest

from certificates import certificates_in
from shunter_engine.loading import EngineStartError
from shunter_engine.moves.testing import moving_engine
from shunter_engine.moves.testing_lead import MoveLead, move
from shunter_engine.moves.testing_streams import start_stream
from shunter_engine.options import EngineOptions
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, channel_credentials

PROMPT = list(range(3, 60))


def with_tls(options: EngineOptions, files: TlsFiles) -> EngineOptions:
    return replace(
        options, moves_tls_cert=files.cert, moves_tls_key=files.key, moves_tls_ca=files.ca
    )


async def test_engines_fetch_from_each_other_by_certificates(
    tmp_path: Path, simulated_options: EngineOptions, client: aiohttp.ClientSession
) -> None:
    files = certificates_in(tmp_path)("engine")
    options = with_tls(simulated_options, files)
    credentials = channel_credentials(files)
    async with (
        moving_engine(options, credentials) as source,
        moving_engine(options, credentials) as destination,
    ):
        body = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
        whole = start_stream(client, source.url, "whole", PROMPT, **body)
        await whole.end()
        source.holds.hold("a", 20)
        stream = start_stream(client, source.url, "a", PROMPT, **body)
        await stream.reach(3)
        moved = await move(client, MoveLead("m", source, destination, stream))
        await moved.stream.end()
        assert stream.token_ids + moved.stream.token_ids == whole.token_ids
        assert moved.reports[-1].bytes > 0


async def test_without_a_certificate_nobody_gets_in(
    tmp_path: Path, simulated_options: EngineOptions
) -> None:
    files = certificates_in(tmp_path)("engine")
    credentials = channel_credentials(files)
    async with moving_engine(with_tls(simulated_options, files), credentials) as engine:
        for stranger in (None, channel_credentials(TlsFiles(ca=files.ca))):
            channel = (
                grpc.aio.insecure_channel(engine.moves)
                if stranger is None
                else grpc.aio.secure_channel(engine.moves, stranger)
            )
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await pb_grpc.EngineMovesStub(channel).Describe(pb.DescribeRequest(), timeout=5)
            assert caught.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"moves_tls_cert": Path("a.pem")}, "given together or not at all"),
        ({"moves_tls_ca": Path("ca.pem")}, "--moves-tls-ca needs --moves-tls-cert"),
        (
            {"moves_tls_cert": Path("no.pem"), "moves_tls_key": Path("no.key")},
            r"no\.pem: No such file",
        ),
        ({"max_moves": 0}, "--max-moves 0: at least 1"),
    ],
)
async def test_what_cannot_be_served_is_told_at_the_start(
    simulated_options: EngineOptions, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineStartError, match=message):
        async with moving_engine(replace(simulated_options, **changed)):  # type: ignore[arg-type]
            raise AssertionError("it started")


async def test_blocks_have_to_fit_into_chunks(numpy_options: EngineOptions) -> None:
    large = replace(numpy_options, block_tokens=8192, kv_tokens=8192)
    with pytest.raises(EngineStartError, match="--block-tokens 8192: a block of one layer is more"):
        async with moving_engine(large):
            raise AssertionError("it started")
