import pytest
import torch
from small_models import full_config, portable_config, write_checkpoint

from autoresearch.quantize.checkpoint import open_checkpoint


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def portable(tmp_path):
    """A portable checkpoint, opened."""
    return open_checkpoint(write_checkpoint(tmp_path / "portable", portable_config()))


@pytest.fixture
def full(tmp_path):
    """A full checkpoint, opened."""
    return open_checkpoint(write_checkpoint(tmp_path / "full", full_config()))
