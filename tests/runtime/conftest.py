"""Certificates for tests of TLS."""

from collections.abc import Callable

import pytest

from certificates import certificates_in
from shunter_runtime.tls import TlsFiles


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TlsFiles]:
    return certificates_in(tmp_path_factory.mktemp("tls"))
