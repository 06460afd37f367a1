"""Model caches for the tests of this package."""

from pathlib import Path

import pytest

from node import conversion
from node.models import ModelCache
from node.workloads.device import use_threads
from tests.node.small_models import make_bert, make_efficientnet, make_llama


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of small random models: bert, llama, efficientnet."""
    use_threads(1)
    root = tmp_path_factory.mktemp("directories")
    for name, make in (("bert", make_bert), ("llama", make_llama), ("efficientnet", make_efficientnet)):
        (root / name).mkdir()
        make(root / name)
    return root


@pytest.fixture(scope="session")
def small_cache(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    """A cache that holds them."""
    cache = ModelCache(tmp_path_factory.mktemp("cache"))
    for name in ("bert", "llama", "efficientnet"):
        conversion.add(cache, str(small_models / name))
    return cache
