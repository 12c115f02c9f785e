"""A registered metric, so that the setting that names such metrics has something to name."""

from collections.abc import Iterator

import pytest

from fedmm.config.parts import register_part, unregister_part


@pytest.fixture(scope="module")
def top_heavy() -> Iterator[None]:
    """The metric ``top_heavy`` for a module's tests: the gain of a place falls as its square."""
    register_part("metric", "top_heavy", lambda places: 1.0 / (places + 1.0) ** 2)
    yield
    unregister_part("metric", "top_heavy")
