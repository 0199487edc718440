"""Which modules have a frame in hand on its way from a video file to the loss.

`python -m tests.support.frame_trip` prints them. A module counts if one of its functions is given, or returns, the
opened file, the facts of its packets, a packet, or what the frame has become: pixels, JPEG, tokens, a tensor. What is
followed: decoding a part, tokenizing it, making a batch of the step, moving it to the device, and the losses.
"""

import inspect
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import pytest
import torch

from bevt_core.dataset.token_set import TokenSet
from bevt_core.media.video.video_file import VideoInfo
from pipeline.job import decode_part
from pipeline.job.run import tokenize
from pipeline.job.tokenize_part import PartTokenizer
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer, tiny_recipe
from trainer.data.batches import StreamBatches
from trainer.engine import step
from trainer.pretrain.stage import pretrain
from trainer.pretrain.task import PretrainTask

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")
ENCODER = ("embed_dim=16", "depths=[2,2,1]", "num_heads=[1,2,4]")


@dataclass
class Trip:
    """`modules` in the order in which they first have the frame; `onward` are those that hand it to another one.

    `calls` are the pairs (caller, callee) of modules in which the callee is given the frame.
    """

    modules: list[str] = field(default_factory=list)
    onward: set[str] = field(default_factory=set)
    calls: set[tuple[str, str]] = field(default_factory=set)

    def see(self, frame: FrameType, event: str, value: object) -> None:
        """A profiler, for `sys.setprofile`."""
        module = module_of(frame)
        if module is None or event not in ("call", "return"):
            return
        code = frame.f_code
        given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if not any(map(has_frame, given if event == "call" else [value])):
            return
        if module not in self.modules:
            self.modules.append(module)
        caller = frame.f_back
        while caller is not None and module_of(caller) in (None, module):
            caller = caller.f_back
        if caller is not None:
            self.onward.add(str(module_of(caller)))
            if event == "call" and not code.co_flags & inspect.CO_GENERATOR:  # a generator's is resumed by its reader
                self.calls.add((str(module_of(caller)), module))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """In the block, and in threads that it starts, functions are seen."""
        threading.setprofile(self.see)
        sys.setprofile(self.see)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def along(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, followed."""

        def wrapped(*args: Any, **options: Any) -> Any:
            with self.followed():
                return function(*args, **options)

        return wrapped


def module_of(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT) or frame.f_code.co_name.startswith("<"):
        return None
    name = path.relative_to(ROOT).as_posix()
    return name if name.startswith(tuple(f"{package}/" for package in PACKAGES)) else None


def has_frame(value: object, depth: int = 2) -> bool:
    """Whether a value is a frame in any of its forms, or a container or record with one. Masks and weights are not."""
    match value:
        case av.Packet() | av.VideoFrame() | av.container.InputContainer() | VideoInfo():
            return True
        case np.ndarray():
            return (value.dtype == np.uint8 and value.size >= 200) or (value.dtype == np.uint16 and value.size > 0)
        case torch.nn.Parameter():
            return False
        case torch.Tensor():
            is_list = value.dtype == torch.int64 and value.ndim < 2  # of positions
            return value.numel() >= 64 and value.dtype != torch.bool and not is_list
        case bytes():
            return value[:2] == b"\xff\xd8"
        case dict() if depth:
            return any(has_frame(item, depth - 1) for item in value.values())
        case list() | tuple() if depth:
            return any(has_frame(item, depth - 1) for item in value[:4])
        case _ if type(value).__name__ in ("Decoded", "FramePart", "FrameSample", "PartView"):
            return any(has_frame(item, depth) for item in vars(value).values())
    return False


def follow_a_frame(folder: Path) -> Trip:
    """Tokenize four small videos below `folder`, and take one joint training step on them."""
    (folder / "raw").mkdir()
    for i in range(4):
        write_video(folder / "raw" / f"{i}.mp4", moving_frames(32, 96, 128, seed=i))
    trip = Trip()
    with pytest.MonkeyPatch.context() as patch, without_ray():
        for name in ("load_source", "write_frame_part"):
            patch.setattr(decode_part, name, trip.along(getattr(decode_part, name)))
        patch.setattr(PartTokenizer, "make_token_part", trip.along(PartTokenizer.make_token_part))
        patch.setattr(StreamBatches, "__getitem__", trip.along(StreamBatches.__getitem__))
        patch.setattr(step, "to_device", trip.along(step.to_device))
        patch.setattr(PretrainTask, "losses", trip.along(PretrainTask.losses))
        tokenizer = save_tiny_tokenizer(folder / "tokenizer")
        tokenize(tiny_recipe(folder / "raw", folder / "data", tokenizer))
        tokens = TokenSet(next((folder / "data" / "tokens").iterdir()))
        settings = [f"model.vocab_size={tokens.manifest.tokenizer.vocab_size}"]
        settings += [f"model.encoder.{setting}" for setting in ENCODER]
        for stream in ("video", "image"):
            settings += [f"streams.{stream}.tokens={tokens.path}", f"streams.{stream}.global_batch=2"]
        settings += ["loop.max_steps=1", "loop.epochs=4", "loop.num_workers=0"]
        recipe = load_recipe("nano_joint", ROOT / "trainer" / "recipes", settings)
        assert isinstance(recipe, PretrainRecipe)
        pretrain(recipe, folder / "run")
    trip.onward &= set(trip.modules)
    trip.calls = {pair for pair in trip.calls if set(pair) <= set(trip.modules)}
    return trip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = follow_a_frame(Path(made))
    for name in found.modules:
        print(f"{name:50s} {'hands it on' if name in found.onward else ''}")
    print(f"{len(found.modules)} modules, {len(found.onward)} hand it on")
