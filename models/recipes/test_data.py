"""What is kept of the data folder's photos. Needs no data, no PyTorch."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402


@pytest.mark.parametrize(("name", "made"), [("one.npy", np.arange(6).reshape(2, 3)), ("some.npz", {"a": np.arange(3), "b": np.ones(2)})])
def test_a_cache_is_made_once_whole_or_not_at_all(tmp_path, name, made):
    path = tmp_path / "runs" / "cache" / name  # as in a fresh clone, without the folder

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.keep(path, stopped)
    assert not path.exists()
    for make in (lambda: made, stopped):
        kept = data.keep(path, make)
        if isinstance(made, dict):
            assert kept.keys() == made.keys() and all((kept[key] == made[key]).all() for key in made)
        else:
            assert isinstance(kept, np.memmap) and (kept == made).all()
    assert {file.name for file in path.parent.iterdir()} == {name, "lock"}
