"""The life of one `shunter up`, from reading the files to the last process's end."""

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live

from shunter.config import parse
from shunter.failure import Failure
from shunter.state import read_state
from shunter.terminal import out
from shunter.up import screen
from shunter.up.launch import Endpoints
from shunter.up.plan import plan_engines
from shunter.up.ports import Ports, join_address
from shunter.up.system import System, SystemOptions
from shunter.up.weights import fetch_weights
from shunter_api.problems import ConfigurationError
from shunter_api.validate import Configuration
from shunter_gateway.config import GatewayOptions, StartError
from shunter_runtime.signals import stop_signals
from shunter_scheduler.sources.files import Files, read_files

SCREENS_PER_S = 4.0
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """Port 0: any free one. `duration_s` None: until a signal."""

    paths: tuple[Path, ...]
    host: str
    port: int
    grpc_port: int
    scheduler_port: int
    state_dir: Path
    duration_s: float | None
    speed: float
    api_keys: Path | None
    insecure_open: bool
    start_timeout_s: float


def run(options: UpOptions) -> None:
    """Raises `Failure`."""
    console = out()
    _not_open_by_mistake(options)
    files, configuration = _read(options.paths)
    state_dir = options.state_dir.absolute()
    with _only_one(state_dir):
        ports = Ports()
        endpoints = _endpoints(options, ports)
        absent = _absent(configuration, console)
        system_options = SystemOptions(
            paths=options.paths,
            state_dir=state_dir,
            endpoints=endpoints,
            speed=options.speed,
            api_keys=options.api_keys,
            insecure_open=options.insecure_open,
            start_timeout_s=options.start_timeout_s,
            absent=absent,
        )

        async def live() -> None:
            system = System(system_options, ports, partial(_tell, console))
            await _Life(console, system, files, configuration).live(options.duration_s)

        asyncio.run(live())


def _not_open_by_mistake(options: UpOptions) -> None:
    """The gateway's own rule, told before anything starts."""
    try:
        GatewayOptions(
            listen=join_address(options.host, options.port),
            grpc_listen=join_address(options.host, options.grpc_port),
            api_keys=options.api_keys,
            insecure_open=options.insecure_open,
        ).check()
    except StartError as error:
        raise Failure(str(error).replace("--listen", "--host", 1)) from error


def _read(paths: tuple[Path, ...]) -> tuple[Files, Configuration]:
    try:
        files = read_files(paths)
        return files, parse(files)
    except ConfigurationError as error:
        names = " ".join(map(str, paths))
        raise Failure(
            f"the configuration is refused\n{error}", f"mend it; `shunter validate {names}` checks"
        ) from error


def _absent(configuration: Configuration, console: Console) -> dict[str, str]:
    """Pools that this machine cannot serve, and why. Raises `Failure` where no other is left."""
    plans = plan_engines(configuration)[0]
    absent = fetch_weights(plans.values(), console)
    if absent and all(plan.pool in absent for plan in plans.values()):
        reasons = (f"pool {pool} cannot be served: {why}" for pool, why in absent.items())
        raise Failure("\n".join(reasons))
    return absent


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """The lock of a process that died is free. Raises `Failure`."""
    with _lock_file(state_dir) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(state_dir)
            who = f" (pid {state.pid})" if state else ""
            raise Failure(
                f"a `shunter up`{who} uses {state_dir} already",
                "end it, or give this one a --state-dir and ports of its own",
            ) from None
        yield


def _lock_file(state_dir: Path) -> IO[bytes]:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        return (state_dir / "lock").open("wb")
    except OSError as error:
        raise Failure(
            f"cannot write into the state directory {state_dir}: {error.strerror}",
            "give another one with --state-dir",
        ) from error


def _endpoints(options: UpOptions, ports: Ports) -> Endpoints:
    def address(host: str, port: int, option: str) -> str:
        return join_address(host, ports.wanted(host, port, option))

    return Endpoints(
        http=address(options.host, options.port, "--port"),
        grpc=address(options.host, options.grpc_port, "--grpc-port"),
        scheduler=address(LOOPBACK, options.scheduler_port, "--scheduler-port"),
        scheduler_metrics=address(LOOPBACK, 0, "--port"),
    )


class _Life:
    def __init__(
        self, console: Console, system: System, files: Files, configuration: Configuration
    ) -> None:
        self._console = console
        self._system = system
        self._files = files
        self._configuration = configuration

    async def live(self, duration_s: float | None) -> None:
        """Until a signal, or `duration_s` of service. Raises `Failure`."""
        system = self._system
        with stop_signals() as stop:
            serving = asyncio.create_task(self._serve(duration_s))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                serving.cancel()
                stopped.cancel()
                outcome, _ = await asyncio.gather(serving, stopped, return_exceptions=True)
                self._console.print("stopping")
                await system.close()
        if isinstance(outcome, Exception):
            raise outcome

    async def _serve(self, duration_s: float | None) -> None:
        system = self._system
        probing = asyncio.create_task(system.fleet.probe())
        try:
            with self._progress():
                await system.start(self._files, self._configuration)
            screen.show(self._console, self._configuration, system.plans, system.served)
            following = asyncio.create_task(system.follow(self._files))
            counting = asyncio.create_task(system.follow_resumes())
            try:
                await asyncio.wait(
                    {probing, following, counting},
                    timeout=duration_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                following.cancel()
                counting.cancel()
                await _settled(counting)
                await _settled(following)
            down = [name for name, child in system.fleet.children.items() if not child.ready]
            if down:
                raise Failure(f"not serving at the end: {', '.join(down)}")
        finally:
            probing.cancel()
            await _settled(probing)

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """A live table on a terminal, one line elsewhere."""
        if not self._console.is_terminal:
            self._console.print(f"starting; logs are in {self._system.logs}")
            yield
            return

        with Live(
            console=self._console,
            get_renderable=lambda: screen.starting(self._system.fleet.children),
            refresh_per_second=SCREENS_PER_S,
            transient=True,
        ):
            yield


def _tell(console: Console, news: str) -> None:
    screen.print_plainly(console, news)


async def _settled(task: asyncio.Task[None]) -> None:
    """Wait for a cancelled task; what went wrong in it is raised."""
    try:
        await task
    except asyncio.CancelledError:
        return
