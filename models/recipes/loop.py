"""The training loop both recipes share: schedule, averaged weights, checkpoints, the CSV of losses.

Owns: `models/runs/NAME/` (last.pt, best.pt, losses.csv, scores.csv). Must not know: what is trained. Invariant: a batch depends
on the seed and the step alone and checkpoints are renamed into place, so a stopped run continues as if it had not stopped.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import data
import torch
from torch import Tensor, nn


@dataclass
class Plan:
    """How long and how fast: `rate` after warm-up, falling to `floor` of it by a cosine; `start`: weights of an earlier run."""

    name: str
    steps: int
    rate: float
    decay: float = 0.05
    warmup: int = 100
    average: float = 0.998
    evaluate_every: int = 500
    save_every: int = 100
    threads: int = 1
    start: Path | None = None
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


def adopt(model: nn.Module, path: Path) -> None:
    """Take from another run's weights whatever fits by name and shape."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    names = {key.split("embedder.")[-1].split("detector.")[-1]: key for key in theirs}
    ours = model.state_dict()
    fitting = {}
    for key, value in ours.items():
        name = names.get(key.split("embedder.")[-1].split("detector.")[-1])
        if name is not None and theirs[name].shape == value.shape:
            fitting[key] = theirs[name]
    model.load_state_dict(fitting, strict=False)
    print(f"starting from {path.parent.name}: {len(fitting)} of {len(ours)} tensors", flush=True)


def _save(path: Path, state: dict) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def fit(
    plan: Plan,
    model: nn.Module,
    losses: Callable[[nn.Module, int], dict[str, Tensor]],
    evaluate: Callable[[nn.Module], dict[str, float]],
) -> Path:
    """Minimise `losses(model, step)["loss"]`; keep the averaged weights whose `evaluate(model)["score"]` was highest.

    Continues from `last.pt` when it is there. Returns the path of `best.pt`, a state_dict of the averaged weights.
    """
    torch.set_num_threads(plan.threads)
    folder = data.RUNS / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    if plan.start is not None:
        adopt(model, plan.start)
    model.to(device(), memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = _optimizer(plan, model)
    start, best, seconds = 0, -math.inf, 0.0
    last = folder / "last.pt"
    if last.exists():
        state = torch.load(last, map_location=device(), weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        start, best, seconds = state["step"], state["best"], state["seconds"]
        print(f"{plan.name}: continuing at step {start} of {plan.steps}", flush=True)
    rows: list[str] = []
    header = None
    since, shown = time.monotonic(), start
    for step in range(start, plan.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate_at(plan, step)
        parts = losses(model, step)
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        keep = min(plan.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, theirs in zip(averaged.state_dict().values(), model.state_dict().values()):
                if ours.dtype.is_floating_point:
                    ours.lerp_(theirs, 1 - keep)
                else:
                    ours.copy_(theirs)
        header = header or "step,rate," + ",".join(parts)
        rows.append(f"{step},{rate_at(plan, step):.6f}," + ",".join(f"{v.item():.5f}" for v in parts.values()))
        done = step + 1
        if done % plan.save_every and done % plan.evaluate_every and done != plan.steps:
            continue
        now = time.monotonic()
        seconds, speed, since, shown = seconds + now - since, (now - since) / (done - shown), now, done
        _append(folder / "losses.csv", header, rows)
        print(f"{plan.name} {done}/{plan.steps} {speed:.2f} s/step {header.split(',', 1)[1]} {rows[-1].split(',', 1)[1]}", flush=True)
        rows.clear()
        if done % plan.evaluate_every == 0 or done == plan.steps:
            scores = evaluate(averaged)
            _append(folder / "scores.csv", "step," + ",".join(scores), [f"{done}," + ",".join(f"{v:.4f}" for v in scores.values())])
            print(f"{plan.name} {done} scores {scores}", flush=True)
            if scores["score"] > best:
                best = scores["score"]
                _save(folder / "best.pt", averaged.state_dict())
            since = time.monotonic()
        state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
        _save(last, state | {"step": done, "best": best, "seconds": seconds})
    print(f"{plan.name}: {plan.steps} steps, {seconds / 60:.1f} minutes of training, best score {best:.4f}", flush=True)
    return folder / "best.pt"


def _append(path: Path, header: str, rows: list[str]) -> None:
    fresh = not path.exists()
    with open(path, "a") as out:
        out.write("".join(line + "\n" for line in ([header] if fresh else []) + rows))
