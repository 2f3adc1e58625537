"""Throw-away certificates: one authority, pairs for `localhost` or others, a stranger's pair."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from shunter_runtime.tls import TlsFiles


def _openssl(*args: str, cwd: Path) -> None:
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


def certificates_in(
    folder: Path, hosts: Sequence[str] = ("localhost",)
) -> Callable[[str], TlsFiles]:
    """`certificates_in(folder)("server")`: files signed by the authority, made once per name."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        *("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-subj", "/CN=test-ca", "-days", "2"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 insists
        cwd=folder,
    )
    names = ",".join(f"DNS:{host}" for host in hosts)
    (folder / "san").write_text(f"subjectAltName={names},IP:127.0.0.1\n")

    def make(name: str) -> TlsFiles:
        files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
        if not (folder / f"{name}.pem").exists():
            _openssl(
                *("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr"),
                *("-subj", f"/CN={name}"),
                cwd=folder,
            )
            _openssl(
                *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
                *("-CAcreateserial", "-days", "2", "-extfile", "san", "-out", f"{name}.pem"),
                cwd=folder,
            )
        return files

    return make
