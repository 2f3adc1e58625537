"""TLS for gRPC and HTTP from certificate files; mutual TLS where a CA is given to a server."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc


class TlsError(Exception):
    """A certificate file is missing, unreadable or does not fit its key."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. A server needs `cert` and `key`; its `ca` makes client certificates mandatory.
    A client needs `ca` (else the system's), and `cert` and `key` where the server asks for them."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise TlsError("a TLS certificate and its key are given together or not at all")


def server_credentials(files: TlsFiles) -> "grpc.ServerCredentials":
    """Raises `TlsError`."""
    import grpc

    server_ssl_context(files)  # grpc itself reports a broken pair only at the first handshake
    cert, key, ca = _read(files.cert), _read(files.key), _read(files.ca)
    assert cert is not None and key is not None
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=ca, require_client_auth=ca is not None
    )


def bind_server(
    server: "grpc.aio.Server | grpc.Server", address: str, files: TlsFiles | None
) -> int:
    """The port that it will listen on, with TLS where there are `files`. Raises `OSError` and
    `TlsError`."""
    try:
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, server_credentials(files))
    except RuntimeError as error:  # grpc's way to say that the address cannot be had
        raise OSError(f"cannot listen on {address}: {error}") from error


def channel_credentials(files: TlsFiles) -> "grpc.ChannelCredentials":
    """Raises `TlsError`."""
    import grpc

    client_ssl_context(files)
    return grpc.ssl_channel_credentials(_read(files.ca), _read(files.key), _read(files.cert))


def server_ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises `TlsError`."""
    if files.cert is None:
        raise TlsError("a TLS server needs a certificate and its key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, files)
    if files.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises `TlsError`."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    for path in (files.cert, files.key, files.ca):
        _read(path)
    try:
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key)
        if files.ca is not None:
            context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError) as error:  # SSLError says neither which file nor why
        names = ", ".join(str(path) for path in (files.cert, files.key, files.ca) if path)
        raise TlsError(f"{names}: not usable for TLS: {error}") from error


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error
