"""`bevt demo-videos`."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit


def demo_videos(
    out: Annotated[Path, typer.Argument(help="Folder for train/ and test/ with a folder per class, and the others.")],
    clips: Annotated[int, typer.Option(min=1, help="Training clips per class; there are 8 classes.")] = 64,
    unlabelled: Annotated[int, typer.Option(min=1, help="Clips without a class, for pretraining.")] = 512,
    images: Annotated[int, typer.Option(min=1, help="Pictures for the image stream.")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the clips and pictures.")] = 0,
    json_: AsJson = False,
) -> None:
    """Make small sets of videos in which a camera moves; its motion is the class.

    The videos are H.264: train/ and test/ with a folder per class, unlabelled/ for pretraining. images/ has pictures.

    \b
    Example:
      bevt demo-videos demo/raw --clips 100
    """
    from pipeline.synthetic.camera_motion import make_camera_motion_set

    made = make_camera_motion_set(
        out, train_clips_per_class=clips, unlabelled_clips=unlabelled, images=images, seed=seed
    )
    emit(made.model_dump(), json_)
