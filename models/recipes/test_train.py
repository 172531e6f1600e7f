"""What `models/train` says and runs, with a Python that only notes what it was given. Needs no PyTorch, no data."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path) -> Path:
    """A LOOKBOOK_HOME whose training environment is there already."""
    python = tmp_path / "home" / "train-venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$(basename "$1")" "$(shift; echo "$@")" >>{tmp_path}/ran\n')
    python.chmod(0o755)
    shutil.copy(MODELS / "requirements.txt", python.parent.parent)
    return tmp_path / "home"


def train(home: Path, *words: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """What it said, and what it ran."""
    log = home.parent / "ran"
    log.unlink(missing_ok=True)
    environment = os.environ | {"LOOKBOOK_HOME": str(home)}
    said = subprocess.run([MODELS / "train", *words], env=environment, capture_output=True, text=True)
    return said, log.read_text().splitlines() if log.exists() else []


def test_help_names_every_verb(home):
    said, ran = train(home, "--help")
    assert said.returncode == 0 and not ran and not said.stdout.startswith("!")
    for word in ("covering", "failures", "robustness", "integers", "doubts", "regions", "--photos", "--coco", "attention-texture"):
        assert word in said.stdout, word
    said, ran = train(home, "resnet")
    assert said.returncode == 2 and not ran and "--photos" in said.stderr


def test_a_recipe_runs_once_and_reads_its_options_itself(home):
    assert train(home, "garment-detector", "train", "--help")[1] == ["detector.py train --help"]
    assert train(home, "garment-detector", "train", "--nope")[1] == ["detector.py train --nope"]
    assert train(home, "garment-detector")[1] == ["detector.py train", "detector.py export", "detector.py eval"]
    assert train(home, "garment-detector", "integers", "--version", "1")[1] == ["integers.py garment-detector --version 1"]
    assert train(home, "garment-embedder", "robustness")[1] == ["robustness.py robustness"]
    assert train(home, "garment-embedder", "export", "--weights", "a--photos.pt")[1] == ["embedder.py export --weights a--photos.pt"]


def test_photos_of_your_own_are_looked_for_before_anything_is_installed(home):
    photos = str(home.parent)
    assert train(home, "garment-embedder", "--name", "x", "--photos", photos)[1] == [f"finetune.py --name x --photos {photos}"]
    assert train(home, "garment-detector", f"--coco={photos}")[1] == [f"finetune_detector.py --coco={photos}"]
    (home / "train-venv" / "requirements.txt").write_text("other")  # an install would begin
    for words, says in (
        (["garment-embedder", "--photos", "/nonexistent"], "--photos /nonexistent: there is no such"),
        (["garment-detector", "--coco=/nonexistent"], "--coco=/nonexistent: there is no such"),
        (["garment-embedder", "--photo", photos], "--photo is no verb; photos of your own are given to garment-embedder by --photos"),
        (["garment-detector", "--photos", photos], "--photos is no verb"),
    ):
        said, ran = train(home, *words)
        assert said.returncode == 2 and says in said.stderr and not ran, said.stderr
