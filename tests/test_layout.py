"""The folders `operator/`, `scheduler/`, `proto/` are import roots, never packages."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", ["operator", "scheduler", "proto", "tests", "tests/operator"])
def test_import_roots_are_not_packages(folder: str) -> None:
    """`operator/__init__.py` would shadow the standard library's module of that name."""
    assert not (ROOT / folder / "__init__.py").exists()
