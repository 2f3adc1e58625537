"""Tokens on their way to a hub: to the hub itself, to nobody else, and into no message."""

import itertools
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request

import pytest

from fake_hub import FakeHub, serving
from shunter_text import hub as hub_module
from shunter_text.hub import HubError, HubOptions, open_hub, read_beginning
from shunter_text.model_files import FetchOptions, ModelFileError, OciAccess
from shunter_text.weights_store import StoreOptions, fetch_weights

SOURCE = "hf://org/name"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 100}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    store = FakeHub(files=dict(FILES), token="hf_secret")
    with serving(store):
        yield store


def options_of(hub: FakeHub, root: Path, token: str = "hf_secret") -> StoreOptions:
    access = HubOptions(endpoint=hub.url, token=token)
    return StoreOptions(root, "me", FetchOptions(cache=root, hub=access, retries=0, deadline_s=30))


def test_a_redirect_to_the_hub_itself_keeps_the_token(hub: FakeHub, tmp_path: Path) -> None:
    """As the hub answers for small files, gated ones too, and for repositories of another name."""
    hub.storage = "/api/resolve-cache"
    path = fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert (path / "config.json").read_bytes() == b"{}"


def test_a_redirect_to_another_host_takes_no_token_along(hub: FakeHub, tmp_path: Path) -> None:
    storage = FakeHub(files=dict(FILES))
    with serving(storage):
        hub.storage = storage.url
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert set(storage.authorizations) == {""} and set(hub.authorizations) == {"Bearer hf_secret"}


@pytest.mark.parametrize("token", ["hf_secret\n", "hf\r\nX-Evil: secret", "hf_secr\u00e9t"])
def test_a_token_that_no_header_can_carry_is_never_told(
    hub: FakeHub, tmp_path: Path, token: str
) -> None:
    with pytest.raises(ModelFileError, match="characters that no header takes") as refused:
        fetch_weights(SOURCE, options_of(hub, tmp_path, token=token))
    assert refused.value.reason == "WeightsUnauthorized"
    assert "hf_" not in str(refused.value) and "secr" not in str(refused.value)
    with pytest.raises(HubError, match="characters that no header takes"):
        open_hub(hub.url, HubOptions(token=token), 5)


def test_the_line_end_of_a_secret_is_none_of_it() -> None:
    """`echo` and editors add one."""
    assert HubOptions.from_environ({"HF_TOKEN": " hf_secret\n"}).token == "hf_secret"
    access = OciAccess.from_environ({"OCI_USERNAME": "me\n", "OCI_PASSWORD": " p4ss \r\n"})
    assert (access.username, access.password) == ("me", " p4ss ")


def test_a_redirect_never_leaves_https() -> None:
    """What comes in the clear could be anything, and digests are not known of all files."""
    asked = Request("https://hub.example/a")
    with pytest.raises(HubError, match=r"redirects to http://hub\.example, away from https"):
        hub_module._Redirects().redirect_request(
            asked, None, 302, "Found", Message(), "http://hub.example/b"
        )


class _Response(HTTPResponse):
    """Its body comes a byte at a time."""

    def __init__(self, content: bytes) -> None:
        self._bytes = [bytes([byte]) for byte in reversed(content)]

    def read1(self, n: int = -1) -> bytes:
        return self._bytes.pop() if n and self._bytes else b""

    def close(self) -> None:
        pass


def test_what_comes_too_slowly_or_is_too_much_has_an_end() -> None:
    def read(count: int, seconds_a_look: int) -> bytes:
        ticks = itertools.count(step=seconds_a_look)
        return read_beginning(_Response(b"abcdef"), count, 10.0, lambda: float(next(ticks)))

    assert read(100, 1) == b"abcdef" and read(4, 1) == b"abcd"
    with pytest.raises(TimeoutError, match="4 bytes came in 10 s"):
        read(100, 3)
