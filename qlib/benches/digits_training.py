"""How the networks of the bench `digits` were trained, and are again, or others like them.

python -m qlib.benches.digits_training train --help
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files import whole
from .digits import CHUNK, draw_chunk, network, to_batches


@dataclass(frozen=True)
class Recipe:
    """How a network of the bench was trained: fresh images every epoch, SGD with Nesterov momentum, one-cycle
    rate.
    """

    epochs: int
    seed: int
    images_per_epoch: int = 40_000
    batch: int = 250
    peak_rate: float = 0.4
    weight_decay: float = 5e-4


RECIPES = {"base": Recipe(epochs=13, seed=0), "better": Recipe(epochs=32, seed=1)}


def train(recipe: Recipe, output: Path) -> None:
    """Train a network and write it to ``output`` as float16 safetensors.

    A checkpoint beside it after every epoch (``.partial``) lets an interrupted run go on where it stopped.
    """
    from safetensors.torch import save_file
    from tqdm import tqdm

    torch.manual_seed(recipe.seed)
    net = network().to(memory_format=torch.channels_last).train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=0.9, nesterov=True)
    steps = recipe.images_per_epoch // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=steps * recipe.epochs
    )
    partial = output.with_suffix(".partial")
    done = 0
    if partial.exists():
        state = torch.load(partial, weights_only=True)
        if state["recipe"] != repr(recipe):
            raise SystemExit(
                f"{partial} belongs to another recipe ({state['recipe']}): delete it or choose another "
                "--output"
            )
        net.load_state_dict(state["net"]), optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["epochs"]
    for epoch in range(done, recipe.epochs):
        images, labels = draw_epoch(recipe, epoch)
        bar = tqdm(
            to_batches(images, labels, recipe.batch), desc=f"epoch {epoch + 1}/{recipe.epochs}", disable=None
        )
        mean = 0.0
        for i, (x, y) in enumerate(bar):
            loss = nn.functional.cross_entropy(net(x.to(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            mean += (loss.item() - mean) / (i + 1)
            bar.set_postfix(loss=f"{mean:.3f}")
        print(f"epoch {epoch + 1}/{recipe.epochs}: mean loss {mean:.4f}", flush=True)
        state = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epochs": epoch + 1,
            "recipe": repr(recipe),
        }
        with whole(partial) as temporary:
            torch.save(state, temporary)
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    with whole(output) as temporary:
        save_file(half, temporary, metadata={"made_by": f"{recipe}, torch {torch.__version__}"})
    partial.unlink(missing_ok=True)


def draw_epoch(recipe: Recipe, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Fresh training images for one epoch; not kept in memory."""
    chunks = range(epoch * recipe.images_per_epoch // CHUNK, (epoch + 1) * recipe.images_per_epoch // CHUNK)
    parts = [draw_chunk("training", recipe.seed, c) for c in chunks]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qlib.benches.digits_training", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser(
        "train", help="train a network by one of the two recipes; resumes where it was stopped"
    )
    training.add_argument("--recipe", choices=RECIPES, default="base")
    training.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    training.add_argument("--epochs", type=int, help="instead of the recipe's own number")
    training.add_argument("--seed", type=int, help="instead of the recipe's own seed")
    arguments = parser.parse_args(argv)
    recipe = RECIPES[arguments.recipe]
    overrides = {k: getattr(arguments, k) for k in ("epochs", "seed") if getattr(arguments, k) is not None}
    train(dataclasses.replace(recipe, **overrides), arguments.output)


if __name__ == "__main__":
    main()
