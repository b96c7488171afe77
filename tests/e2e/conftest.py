"""Shared by tests that train encoders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pictures import picture


@pytest.fixture(scope="session")
def make_image() -> Callable[..., bytes]:
    return picture
