"""One Ray for all end-to-end tests of a process: starting it costs seconds. It ends with the process."""

import logging
import os
from pathlib import Path

import pytest

from tests.support.tiny_jobs import save_tiny_tokenizer


@pytest.fixture(scope="module")
def ray_here() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():  # by the module before
        return
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
    )


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizers") / "tiny")
