"""The training loop that the recipes share: schedule, averaged weights, checkpoints, the CSV of losses.

Owns: `models/runs/NAME/` (last.pt, best.pt, losses.csv, scores.csv). Must not know: what is trained. Invariant: a batch depends on the
seed and the step alone, and so does what the network itself draws (dropout); checkpoints are renamed into place and what the CSVs have
beyond them is cut off, so a stopped run continues as if it had not stopped. A run is of one process at a time.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import data
import files
import numpy as np
import torch
from torch import Tensor, nn

Losses = Callable[[nn.Module, int], dict[str, Tensor]]
Evaluate = Callable[[nn.Module], dict[str, float]]
LARGEST_NORM = 10.0  # of all gradients together


@dataclass
class Plan:
    """How long and how fast: `rate` after warm-up, falling to `floor` of it by a cosine."""

    name: str
    steps: int
    rate: float
    decay: float = 0.05
    seed: int = field(kw_only=True)
    warmup: int = 100
    average: float = 0.998
    evaluate_every: int = 500
    save_every: int = 100
    threads: int = 1
    momentum: float | None = None  # SGD with it instead of AdamW
    floor: float = 0.01  # share of the rate that is left at the end


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast():
    """bfloat16 for convolutions and matrices where it is faster: on a CPU with AMX (2.6 times; without AMX it takes 1.2 times as
    long) and on a GPU. Weights and their averages stay float32."""
    faster = device().type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=faster)


def rate_at(plan: Plan, step: int) -> float:
    warmup = min(plan.warmup, plan.steps // 10)
    if step < warmup:
        return plan.rate * (step + 1) / warmup
    along = (step - warmup) / max(1, plan.steps - warmup)
    return plan.rate * (plan.floor + (1 - plan.floor) * 0.5 * (1 + math.cos(math.pi * along)))


def _optimizer(plan: Plan, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum and L2; biases and norms are not decayed."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan.decay}, {"params": vectors, "weight_decay": 0.0}]
    if plan.momentum is not None:
        return torch.optim.SGD(groups, lr=plan.rate, momentum=plan.momentum)
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.99))


def read(path: Path) -> dict:
    """What a run saved, or an end of the program where there is no such file."""
    if not path.is_file():
        sys.exit(f"{path}: there are no weights; train comes before this")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        sys.exit(f"{path}: is no file of weights that train wrote")


def adopt(module: nn.Module, path: Path, prefix: str = "") -> None:
    """Fill the module with another run's weights: with all that its names begin with `prefix`, which have to be all of the module's.
    Those of another network end the program."""
    print(f"starting from {path.parent.name}", flush=True)
    theirs = read(path)
    try:
        module.load_state_dict({key.removeprefix(prefix): value for key, value in theirs.items() if key.startswith(prefix)})
    except (AttributeError, RuntimeError):
        sys.exit(f"{path}: has the weights of another network than this recipe's")


def best(name: str) -> Path:
    """The averaged weights of a run whose score was highest: a state_dict."""
    return data.RUNS / name / "best.pt"


class Run:
    """One training and how far it is; `save` keeps it in `last.pt`, and it goes on from there."""

    def __init__(self, plan: Plan, model: nn.Module):
        self.plan, self.folder = plan, data.RUNS / plan.name
        self.model = model.to(device(), memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = _optimizer(plan, model)
        self.step = self.scored = 0  # steps done, and how many of them the last score is of
        self.best, self.seconds = -math.inf, 0.0
        self.lines: list[str] = []  # of losses.csv, since the last save
        if (self.folder / "last.pt").exists():
            self._resume()
        _cut(self.folder / "losses.csv", self.step - 1)
        _cut(self.folder / "scores.csv", self.scored)

    def _resume(self) -> None:
        state = torch.load(self.folder / "last.pt", map_location=device(), weights_only=True)
        for part in ("model", "averaged", "optimizer"):
            getattr(self, part).load_state_dict(state[part])
        self.step, self.scored, self.best, self.seconds = (state[name] for name in ("step", "scored", "best", "seconds"))
        print(f"{self.plan.name}: continuing at step {self.step} of {self.plan.steps}", flush=True)

    def save(self) -> None:
        known = {"step": self.step, "scored": self.scored, "best": self.best, "seconds": self.seconds}
        parts = {part: getattr(self, part).state_dict() for part in ("model", "averaged", "optimizer")}
        _save(self.folder / "last.pt", parts | known)

    def is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    def learn(self, losses: Losses) -> None:
        """One step."""
        began, rate = time.monotonic(), rate_at(self.plan, self.step)
        self.model.train()
        torch.manual_seed(int(np.random.SeedSequence([self.plan.seed, self.step]).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = losses(self.model, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_NORM)
        self.optimizer.step()
        self._average(min(self.plan.average, (1 + self.step) / (10 + self.step)))
        self.lines.append(f"{self.step},{rate:.6f}," + ",".join(f"{value.item():.5f}" for value in parts.values()))
        self.step += 1
        self.seconds += time.monotonic() - began
        if self.is_due(self.plan.save_every) or self.is_due(self.plan.evaluate_every):
            self._tell("step,rate," + ",".join(parts))
            self.save()

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for ours, theirs in zip(self.averaged.state_dict().values(), self.model.state_dict().values()):
            if ours.dtype.is_floating_point:
                ours.lerp_(theirs, 1 - keep)
            else:
                ours.copy_(theirs)

    def _tell(self, header: str) -> None:
        _append(self.folder / "losses.csv", header, self.lines)
        speed, named = self.seconds / self.step, header.split(",", 1)[1]
        print(f"{self.plan.name} {self.step}/{self.plan.steps} {speed:.2f} s/step {named} {self.lines[-1].split(',', 1)[1]}", flush=True)
        self.lines.clear()

    def score(self, evaluate: Evaluate) -> None:
        """What the averaged weights of this step are worth; those of the highest score are kept."""
        scores = evaluate(self.averaged)
        row = f"{self.step}," + ",".join(f"{value:.4f}" for value in scores.values())
        _append(self.folder / "scores.csv", "step," + ",".join(scores), [row])
        print(f"{self.plan.name} {self.step} scores {scores}", flush=True)
        if scores["score"] > self.best:
            self.best = scores["score"]
            _save(best(self.plan.name), self.averaged.state_dict())
        self.scored = self.step
        self.save()


def fit(plan: Plan, model: nn.Module, losses: Losses, evaluate: Evaluate | None = None) -> nn.Module:
    """Minimise `losses(model, step)["loss"]`; keep the averaged weights whose `evaluate(model)["score"]` was highest.

    Continues from `last.pt` when it is there. Returns the model with the averaged weights of the last step.
    """
    torch.set_num_threads(plan.threads)
    with files.held(data.RUNS / plan.name):
        run = Run(plan, model)

        def score_if_due() -> None:
            if evaluate is not None and run.scored < run.step and run.is_due(plan.evaluate_every):
                run.score(evaluate)

        score_if_due()  # a run that was stopped while it was scored
        while run.step < plan.steps:
            run.learn(losses)
            score_if_due()
    chosen = "" if evaluate is None else f", best score {run.best:.4f}"
    print(f"{plan.name}: {plan.steps} steps, {run.seconds / 60:.1f} minutes of training{chosen}", flush=True)
    return run.averaged


def _save(path: Path, state: dict) -> None:
    # By way of memory: PyTorch has no word for a full disk.
    content = io.BytesIO()
    torch.save(state, content)
    files.write({path: content.getvalue()})


def _append(path: Path, header: str, rows: list[str]) -> None:
    try:
        with open(path, "a") as out:
            out.write("".join(line + "\n" for line in ([] if out.tell() else [header]) + rows))
    except OSError as error:
        sys.exit(f"{path}: cannot be written ({error.strerror})")


def _cut(path: Path, last: int) -> None:
    """Leave out the rows of steps after `last`, and one that was not written to its end."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = lines[:1] + [row for row in lines[1:] if int(row.split(",", 1)[0]) <= last]
        files.write({path: "".join(kept).encode()})
