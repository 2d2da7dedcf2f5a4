"""Clients refer to their spaces: what a test leaves behind goes before the next one looks at the process."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()
