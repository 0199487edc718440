"""When pretraining pays: `python benchmarks/study/emergence.py --out DIR [--mask random_frame] [--steps 6000]`.

A small Video Swin (64 px, 8 frames, 8 x 8 tokens) is pretrained on unlabelled clips of a moving camera (`scenes.py`),
then fine-tuned on a few labelled clips of photographs; the class is the motion of the camera, and test photographs are
other photographs. Fine-tuning from scratch has the same steps. Tokens are those of dvae-nano.

Prints a JSON line per evaluation: the masked loss in nats on test photographs, beside the entropy of the tokens;
accuracy of masked tokens; accuracy of a linear probe, and of fine-tuning on --labels. One thread, and bf16 products if
--precision bf16. Clips and tokens are kept in DIR for the next run.
"""

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.masking import draw_mask, hidden_positions
from bevt_core.models.bevt import Bevt
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.models.stems import normalise
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer
from pipeline.synthetic.camera import CLASSES, draw_clip
from pipeline.synthetic.photographs import PHOTOGRAPHS
from pipeline.synthetic.scenes import draw_unlabelled
from schemas.models import MaskConfig, Random3dMask, RandomFrameMask, TubeMask
from schemas.text.json_text import json_text
from trainer.probes.linear import linear_predict

FRAMES, SIZE_PX, VOCABULARY = 8, 64, 64
GRID = (FRAMES // 2, 8, 8)  # of masks
SWIN = SWIN_SIZES["nano"]
BATCH, LABELLED, TEST = 32, 2048, 512
MASKS: dict[str, MaskConfig] = {
    "tube": TubeMask(kind="tube", ratio=0.5, min_block=4, length_share=(0.5, 1.0)),
    "random_frame": RandomFrameMask(kind="random_frame", ratio=0.5),
    "random_3d": Random3dMask(kind="random_3d", ratio=0.5),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=options.precision == "bf16")
    train = made_once(options.out / f"unlabelled-{options.clips}.npy", unlabelled, options.clips)
    labelled = made_once(options.out / "labelled.npy", partial(photographs, "train"), LABELLED)
    test = made_once(options.out / "test.npy", partial(photographs, "test"), TEST)
    tokens = tokens_of(options.out / f"unlabelled-{options.clips}-tokens.npy", train)
    test_tokens = tokens_of(options.out / "test-tokens.npy", test)
    shares = np.bincount(tokens.flatten(), minlength=VOCABULARY) / tokens.numel()
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())

    model = build_bevt(**SWIN, vocab_size=VOCABULARY, streams=("video",))
    optimizer = torch.optim.AdamW(decay_groups(model), lr=options.lr, betas=(0.9, 0.98))
    config, rng, started = MASKS[options.mask], rng_for("emergence", options.seed), time.process_time()
    for step in range(options.steps + 1):
        if step % options.evaluate_every == 0:
            loss, accuracy = masked_loss(model, test, test_tokens, config)
            line = {"step": step, "cpu_s": round(time.process_time() - started), "entropy": round(entropy, 3)}
            line |= {"masked_loss": loss, "masked_accuracy": accuracy, "probe": probe_accuracy(model, labelled, test)}
            for count in options.labels:
                line[f"top1_{count}"] = finetuned_accuracy(model, labelled, test, count, options.seed, autocast)
            print(json_text(line), flush=True)
        set_rate(optimizer, options.lr, step, options.steps, warm_up=200)
        batch = np.sort(rng.permutation(len(train))[:BATCH])
        with autocast():
            value = loss_of(model, train[batch], tokens[batch], config, rng)
        take_step(optimizer, model, value)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mask", choices=MASKS, default="tube")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--clips", type=int, default=16384)
    parser.add_argument("--labels", type=int, nargs="*", default=[512])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    return parser.parse_args()


def unlabelled(index: int) -> np.ndarray:
    return draw_unlabelled(index, FRAMES, SIZE_PX, rng_for("unlabelled", index))


def photographs(split: str, index: int) -> np.ndarray:
    label = CLASSES[index % len(CLASSES)]
    return draw_clip(list(PHOTOGRAPHS[split]), split, label, FRAMES, SIZE_PX, rng_for("emergence", split, index))


def made_once(path: Path, draw_one: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Return the clips of a file, uint8 (count, T, H, W, 3); made by two processes if it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2) as pool:
            save_whole(path, np.stack(list(pool.map(draw_one, range(count), chunksize=64))))
    clips: np.ndarray = np.load(path)
    return clips


def tokens_of(path: Path, clips: np.ndarray) -> Tensor:
    """The tokens of clips, int64 (N, T, h, w); made once."""
    if not path.exists():
        tokenizer = load_tokenizer("dvae-nano")
        parts = np.array_split(clips, max(1, len(clips) // 16))
        ids = [tokenizer.encode(torch.from_numpy(some).flatten(0, 1)).to(torch.uint8) for some in parts]
        save_whole(path, torch.cat(ids).unflatten(0, clips.shape[:2]).numpy())
    return torch.from_numpy(np.load(path)).long()


def save_whole(path: Path, array: np.ndarray) -> None:
    """Write a file that never exists in part, since the next run would read it."""
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)


def pixels(clips: np.ndarray) -> Tensor:
    """uint8 (N, T, H, W, 3) -> normalised float (N, 3, T, H, W)."""
    return normalise(torch.from_numpy(clips))


def loss_of(model: Bevt, clips: np.ndarray, tokens: Tensor, config: MaskConfig, rng: np.random.Generator) -> Tensor:
    """The mean loss of a batch under masks that `rng` draws."""
    return model.loss(pixels(clips), tokens, draw_masks(config, rng, len(clips)), "video")


def draw_masks(config: MaskConfig, rng: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(np.stack([draw_mask(config, rng, GRID) for _ in range(count)]))


@torch.no_grad()
def masked_loss(model: Bevt, clips: np.ndarray, tokens: Tensor, config: MaskConfig) -> tuple[float, float]:
    """The mean loss in nats, and the share of masked tokens predicted exactly."""
    loss, masked, correct, rng = 0.0, 0, 0, rng_for("masks of the test")
    for first in range(0, len(clips), BATCH):
        mask = draw_masks(config, rng, len(clips[first : first + BATCH]))
        part = slice(first, first + BATCH)
        found = model.masked_loss_sum(pixels(clips[part]), tokens[part], mask, hidden_positions(mask, FRAMES), "video")
        loss, masked = loss + float(found.loss_sum), masked + int(found.num_masked)
        correct += int(found.num_correct)
    return round(loss / masked, 4), round(correct / masked, 4)


@torch.no_grad()
def probe_accuracy(model: Bevt, labelled: np.ndarray, test: np.ndarray) -> float:
    """Test accuracy of a linear probe of the pooled encoder, trained on half of the labelled clips."""
    half = labelled[: len(labelled) // 2]
    features = [torch.cat([model.pooled(pixels(some)) for some in np.array_split(clips, 16)]) for clips in (half, test)]
    with torch.enable_grad():
        predicted = linear_predict(features[0], labels_of(half), features[1], len(CLASSES))
    return round(float((predicted == labels_of(test)).float().mean()), 4)


def finetuned_accuracy(
    weights: Bevt,
    clips: np.ndarray,
    test: np.ndarray,
    count: int,
    seed: int,
    autocast: Callable[[], torch.autocast],
    steps: int = 300,
) -> float:
    """Test accuracy after fine-tuning a copy of the encoder on `count` labelled clips, equally many of each class."""
    model = build_classifier(**SWIN, num_classes=len(CLASSES))
    model.stem.load_state_dict(weights.stems["video"].state_dict())
    model.encoder.load_state_dict(weights.encoders["shared"].state_dict())
    rng, lr = rng_for("finetune", seed), 1e-3
    chosen = rng.permutation(len(clips) // len(CLASSES))[: count // len(CLASSES)]
    members = (chosen[:, None] * len(CLASSES) + np.arange(len(CLASSES))).flatten()
    optimizer = torch.optim.AdamW(decay_groups(model), lr=lr)
    for step in range(steps):
        set_rate(optimizer, lr, step, steps, warm_up=30)
        batch = np.sort(rng.choice(members, BATCH, replace=len(members) < BATCH))
        with autocast():
            logits = model(pixels(clips[batch]))
        take_step(optimizer, model, F.cross_entropy(logits.float(), torch.from_numpy(batch % len(CLASSES))))
    return accuracy_of(model, test)


@torch.no_grad()
def accuracy_of(model: Classifier, clips: np.ndarray) -> float:
    model.eval()
    predicted = torch.cat([model(pixels(some)).argmax(dim=1) for some in np.array_split(clips, 16)])
    return round(float((predicted == labels_of(clips)).float().mean()), 4)


def labels_of(clips: np.ndarray) -> Tensor:
    return torch.arange(len(clips)) % len(CLASSES)


def decay_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def set_rate(optimizer: torch.optim.Optimizer, lr: float, step: int, steps: int, warm_up: int) -> None:
    """Linear warm-up, then a cosine to a twentieth."""
    share = min(1, (step + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    for group in optimizer.param_groups:
        group["lr"] = lr * share


def take_step(optimizer: torch.optim.Optimizer, model: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 3.0)
    optimizer.step()


if __name__ == "__main__":
    main()
