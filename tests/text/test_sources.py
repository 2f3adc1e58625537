import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_text.hub import HubError, HubOptions, ModelFiles
from shunter_text.model_files import FetchOptions
from shunter_text.sources import TokenizerUnavailable, load_tokenizer, sim_tokenizer

TOKENIZER_JSON = (
    Path(__file__).parents[2] / "scheduler/shunter_text/data/sim_tokenizer.json"
).read_bytes()


def write_model(folder: Path, **config: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(TOKENIZER_JSON)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_simulated_models_share_one_tokenizer() -> None:
    tokenizer = load_tokenizer("sim://llama-3.1-8b")
    assert tokenizer is not None
    assert tokenizer.encode("hello there") == sim_tokenizer().encode("hello there")


@pytest.mark.parametrize("source", ["pvc://weights/llama", "s3://b/llama", "oci://r/llama:1"])
def test_sources_only_an_engine_can_read_have_none(source: str) -> None:
    assert load_tokenizer(source) is None


@pytest.mark.parametrize("source", ["llama", "sim://", "ftp://x", "file:///not/there", "hf://one"])
def test_bad_sources_are_named(source: str) -> None:
    with pytest.raises(TokenizerUnavailable, match=source):
        load_tokenizer(source)


def test_folder_with_its_own_template_and_end_tokens(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        chat_template="{{ bos_token }}{{ messages[0].content }}",
        bos_token={"content": "<|im_start|>"},
        eos_token="<|im_end|>",
    )
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    tokenizer = load_tokenizer(f"file://{tmp_path}")
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "hi"}])) == "hi"
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}])[0] == 1
    assert tokenizer.eos_token_ids == (2, 0)


def test_gguf_with_its_own_template(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    tokenizer = load_tokenizer(f"file://{path}")
    assert tokenizer is not None
    ids = tokenizer.encode_chat([{"role": "user", "content": "the thing"}])
    assert [tokenizer.token_text(id_) for id_ in ids].count("<|im_start|>") == 2
    assert tokenizer.token_text(tokenizer.eos_token_ids[0]).startswith("<|")
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(TokenizerUnavailable, match=r"tiny\.gguf"):
        load_tokenizer(f"file://{path}")


def test_template_file_wins_and_named_templates_are_understood(tmp_path: Path) -> None:
    write_model(tmp_path, chat_template=[{"name": "default", "template": "named"}])
    messages = [{"role": "user", "content": "hi"}]
    named = load_tokenizer(f"file://{tmp_path}")
    assert named is not None
    assert named.decode(named.encode_chat(messages)) == "named"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    filed = load_tokenizer(f"file://{tmp_path}")
    assert filed is not None
    assert filed.decode(filed.encode_chat(messages)) == "from the file"


def test_broken_files_are_clear_errors(tmp_path: Path) -> None:
    write_model(tmp_path, chat_template="{% for %}")
    with pytest.raises(TokenizerUnavailable, match="chat template is not valid"):
        load_tokenizer(f"file://{tmp_path}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerUnavailable, match=r"tokenizer\.json is not valid"):
        load_tokenizer(f"file://{tmp_path}")


class Hub(BaseHTTPRequestHandler):
    """A model hub with one public and one gated model, over real sockets."""

    def do_GET(self) -> None:
        if self.path.startswith("/acme/gated/") and self.headers["Authorization"] != "Bearer t0k":
            self.send_error(403)
        elif self.path == "/acme/cut/resolve/main/tokenizer.json":
            self.send_response(200)
            self.send_header("Content-Length", str(len(TOKENIZER_JSON) + 1))
            self.end_headers()
            self.wfile.write(TOKENIZER_JSON)
        elif self.path.endswith("/resolve/main/tokenizer.json"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(TOKENIZER_JSON)))
            self.end_headers()
            self.wfile.write(TOKENIZER_JSON)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubOptions]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield HubOptions(
            hub_cache=tmp_path / "hf",
            own_cache=tmp_path / "own",
            endpoint=f"http://127.0.0.1:{server.server_address[1]}",
        )
        server.shutdown()
        thread.join()


def with_options(options: HubOptions, **changes: object) -> HubOptions:
    values = {name: getattr(options, name) for name in HubOptions.__dataclass_fields__}
    return HubOptions(**{**values, **changes})


def test_download_then_cache(tmp_path: Path, hub: HubOptions) -> None:
    tokenizer = load_tokenizer("hf://acme/chat", FetchOptions(tmp_path, hub))
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    offline = with_options(hub, endpoint="http://127.0.0.1:1")
    assert ModelFiles("acme/chat", offline).read("tokenizer.json") == TOKENIZER_JSON


def test_a_cut_download_is_an_error_and_not_cached(hub: HubOptions) -> None:
    with pytest.raises(HubError, match=r"acme/cut/.*(ended at|more expected)"):
        ModelFiles("acme/cut", hub).read("tokenizer.json")
    assert not list(hub.own_cache.rglob("*"))


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, hub: HubOptions) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = with_options(hub, own_cache=tmp_path / "file")
    with pytest.raises(HubError, match="set SHUNTER_CACHE"):
        ModelFiles("acme/chat", blocked).read("tokenizer.json")


def test_gated_model_needs_the_token(tmp_path: Path, hub: HubOptions) -> None:
    with pytest.raises(TokenizerUnavailable, match=r"HTTP 403 .*set HF_TOKEN"):
        load_tokenizer("hf://acme/gated", FetchOptions(tmp_path, hub))
    allowed = FetchOptions(tmp_path, with_options(hub, token="t0k"))
    assert load_tokenizer("hf://acme/gated", allowed) is not None
    assert "t0k" not in repr(with_options(hub, token="t0k"))


def test_the_common_cache_is_read(hub: HubOptions) -> None:
    folder = hub.hub_cache / "models--acme--cached"
    write_model(folder / "snapshots" / "abc")
    (folder / "snapshots" / "abc" / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc\n")
    for reference in ("acme/cached", "acme/cached@abc"):
        files = ModelFiles(reference, with_options(hub, offline=True))
        assert files.read("tokenizer.json") == TOKENIZER_JSON


def test_offline_and_unreachable_say_so(hub: HubOptions) -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        ModelFiles("acme/chat", with_options(hub, offline=True)).read("tokenizer.json")
    unreachable = with_options(hub, endpoint="http://127.0.0.1:1")
    with pytest.raises(HubError, match="put the files into"):
        ModelFiles("acme/chat", unreachable).read("tokenizer.json")


def test_deadline_is_kept(hub: HubOptions) -> None:
    times = iter([0.0, 61.0])
    files = ModelFiles("acme/chat", hub, clock=lambda: next(times))
    with pytest.raises(HubError, match="not loaded within 60 s"):
        files.read("tokenizer.json")


@pytest.mark.parametrize("reference", ["../etc", "a/../b", "acme/chat@../x", "/acme/chat", "acme"])
def test_names_cannot_leave_the_cache(reference: str, hub: HubOptions) -> None:
    with pytest.raises(HubError, match="expected hf://ORG/NAME"):
        ModelFiles(reference, hub)


def test_environment_variables_are_obeyed() -> None:
    options = HubOptions.from_environ(
        {"HF_HOME": "/h", "HF_ENDPOINT": "https://mirror/", "HF_HUB_OFFLINE": "1"}
    )
    assert options.hub_cache == Path("/h/hub")
    assert (options.endpoint, options.offline) == ("https://mirror", True)
