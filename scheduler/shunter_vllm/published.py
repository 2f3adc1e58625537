"""The layout's word on its way to the API server, which is another process than the scheduler.

A file beside the folder of blocks: it is there while `EngineMoves` are served.
"""

import os
from pathlib import Path


def publish(folder: Path, word: str) -> None:
    """Appears whole. Raises `OSError`."""
    path = _path(folder)
    temporary = path.with_suffix(f".layout-{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
        file.write(word)
    temporary.replace(path)


def withdraw(folder: Path) -> None:
    _path(folder).unlink(missing_ok=True)


def published(folder: Path) -> str:
    """Empty: nothing moves by KV."""
    try:
        return _path(folder).read_text()
    except FileNotFoundError:
        return ""


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.layout")
