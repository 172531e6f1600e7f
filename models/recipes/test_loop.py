"""A stopped training continues as if it had not stopped. Needs PyTorch, no data."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training is tested where PyTorch is installed: .lookbook/train-venv/bin/pytest models/recipes")
sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
import loop  # noqa: E402
import torch  # noqa: E402
from test_files import LARGE, full_disk  # noqa: E402
from torch import nn  # noqa: E402

PLAN = loop.Plan("line", 23, 1e-2, seed=1, evaluate_every=10, save_every=5)
TRAINING = """
import os, signal, sys
import test_loop
test_loop.train(sys.argv[1], kill=sys.argv[2])
"""


def train(runs: str, kill: str = "") -> dict[str, torch.Tensor]:
    """A line through points; killed where `kill` says, if it says so."""
    data.RUNS = Path(runs)
    torch.manual_seed(1)

    def die(where: str) -> None:
        if kill == where:
            os.kill(os.getpid(), signal.SIGKILL)

    def losses(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
        die(f"step {step}")
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        return {"loss": (model(x)[:, 0] - x.sum(1)).square().mean()}

    def evaluate(model: nn.Module) -> dict[str, float]:
        die(f"score {len(list(Path(runs).glob('line/best.pt')))}")
        return {"score": -float((model(torch.ones(1, 2)) - 2).abs().item())}

    save = loop._save

    def saved(path: Path, state: dict) -> None:
        if path.name == "last.pt":
            die(f"save {state['step']} {state['scored']}")
        save(path, state)

    loop._save = saved
    try:
        return loop.fit(PLAN, nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 1)), losses, evaluate).state_dict()
    finally:
        loop._save = save


@pytest.mark.parametrize("where", ["step 3", "step 13", "save 5 0", "score 0", "score 1", "save 10 10", "save 23 23"])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, monkeypatch, where):
    """Killed between saves, before one, and while the weights are scored or before that is saved."""
    monkeypatch.setattr(data, "RUNS", data.RUNS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(str(whole))
    ended = subprocess.run([sys.executable, "-c", TRAINING, str(killed), where], cwd=Path(__file__).parent)
    assert ended.returncode == -signal.SIGKILL
    ours = train(str(killed))
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    for name in ("losses.csv", "scores.csv"):
        assert (killed / "line" / name).read_text() == (whole / "line" / name).read_text(), name
    best = [torch.load(runs / "line" / "best.pt", weights_only=True) for runs in (whole, killed)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


def test_a_row_that_was_not_written_to_its_end_spoils_no_other(tmp_path, monkeypatch):
    """As a full disk or a dead machine leaves it, of a step that looks as if it were done."""
    monkeypatch.setattr(data, "RUNS", data.RUNS)
    train(str(tmp_path / "whole"))
    ended = subprocess.run([sys.executable, "-c", TRAINING, str(tmp_path / "torn"), "step 13"], cwd=Path(__file__).parent)
    assert ended.returncode == -signal.SIGKILL
    for name in ("losses.csv", "scores.csv"):
        with open(tmp_path / "torn" / "line" / name, "a") as rows:
            rows.write("1")
    train(str(tmp_path / "torn"))
    for name in ("losses.csv", "scores.csv"):
        assert (tmp_path / "torn" / "line" / name).read_text() == (tmp_path / "whole" / "line" / name).read_text(), name


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_one_before(tmp_path):
    loop._save(tmp_path / "last.pt", {"step": 1})
    with full_disk(), pytest.raises(SystemExit, match="^.*last.pt: cannot be written [(][^\n]*[)]$"):
        loop._save(tmp_path / "last.pt", {"step": 2, "model": torch.zeros(LARGE)})
    assert loop.read(tmp_path / "last.pt") == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_weights_that_are_not_there_are_said_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="best.pt: there are no weights; train comes before this"):
        loop.adopt(nn.Linear(2, 3), tmp_path / "best.pt")
    for content in (b"", b"no weights", b"PK\x03\x04"):
        (tmp_path / "best.pt").write_bytes(content)
        with pytest.raises(SystemExit, match="best.pt: is no file of weights"):
            loop.read(tmp_path / "best.pt")


def test_weights_are_taken_whole(tmp_path):
    theirs = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    torch.save(theirs.state_dict(), tmp_path / "best.pt")
    ours = nn.Linear(2, 3)
    loop.adopt(ours, tmp_path / "best.pt", "backbone.")
    assert torch.equal(ours.weight, theirs["backbone"].weight)
    for wrong, prefix in ((nn.Linear(2, 4), "backbone."), (nn.Linear(2, 3), "trunk."), (nn.Linear(2, 3), "")):
        with pytest.raises(SystemExit, match="best.pt: has the weights of another network"):
            loop.adopt(wrong, tmp_path / "best.pt", prefix)
    torch.save(torch.zeros(3), tmp_path / "best.pt")
    with pytest.raises(SystemExit, match="best.pt: has the weights of another network"):
        loop.adopt(ours, tmp_path / "best.pt")
