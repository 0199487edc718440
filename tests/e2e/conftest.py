"""One Ray for all end-to-end tests of a process: starting it costs seconds."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_jobs import save_tiny_tokenizer


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizers") / "tiny")
