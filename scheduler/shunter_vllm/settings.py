"""`kv_connector_extra_config` of vLLM's `--kv-transfer-config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shunter_runtime.tls import TlsFiles


class SettingsError(ValueError):
    """The connector's configuration is not usable; the message names the field."""


class ConnectorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: int  # of EngineMoves; published as a metric, so it cannot be 0
    host: str = "0.0.0.0"
    folder: str = "/dev/shm/shunter-vllm"  # of blocks on their way; better in memory
    store_mib: int = 1024  # that they may take, in and out
    step_mib: int = 64  # copied out of the KV cache within one step, at most
    max_moves: int = 8  # in and out, at one time
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""

    @property
    def tls(self) -> TlsFiles | None:
        """Raises `TlsError`."""
        names = (self.tls_cert, self.tls_key, self.tls_ca)
        if not any(names):
            return None
        return TlsFiles(*(Path(name) if name else None for name in names))


def parse_settings(extra: Mapping[str, Any]) -> ConnectorSettings:
    """Raises `SettingsError`."""
    try:
        settings = msgspec.convert(dict(extra), ConnectorSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"kv_connector_extra_config: {error}") from error
    if not 0 < settings.port < 65536:
        raise SettingsError(f"kv_connector_extra_config: port {settings.port}: 1 to 65535")
    for name in ("store_mib", "step_mib", "max_moves"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"kv_connector_extra_config: {name}: at least 1")
    if settings.tls_ca and not settings.tls_cert:
        raise SettingsError("kv_connector_extra_config: tls_ca needs tls_cert and tls_key")
    return settings
