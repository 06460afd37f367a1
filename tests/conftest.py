"""What every test stands on: surroundings that are the test's own, and a model cache shared with the developer."""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

from node.models import ModelCache, ModelError


@pytest.fixture(scope="session", autouse=True)
def own_surroundings() -> Iterator[None]:
    """No test sees the developer's clusters, keys or settings; all share the cache of models.

    The run directory is not below pytest's own: Ray's sockets need a short path. Ctrl-C is heard also where a shell
    began the tests in the background, deaf to it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="carpool-") as run_dir, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("CARPOOL_") and name != "CARPOOL_CACHE"]:
            environment.delenv(name)
        environment.setenv("CARPOOL_RUN_DIR", run_dir)
        yield


@pytest.fixture(scope="session")
def named_cache() -> ModelCache:
    """This user's own cache with the models that are had by name, fetched if need be."""
    from node import conversion  # with torch, which most tests do without
    from node.workloads.device import use_threads

    use_threads(1)
    cache = ModelCache.of_user()
    for name in ("minilm", "smollm2", "efficientnet-lite0"):
        try:
            conversion.add(cache, name)
        except ModelError as error:
            pytest.skip(f"real models are not to be had here: {error}")
    return cache
