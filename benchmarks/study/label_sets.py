"""What the study fine-tunes on: camera motion, pictures, and real videos that the user has."""

from dataclasses import dataclass
from pathlib import Path

from sizes import Study

from bevt_core.media.kinds import kind_of
from pipeline.synthetic.camera import CLASSES
from pipeline.synthetic.photographs import PHOTOGRAPHS

VAL_SHARE = 0.2  # of every class, held out where there are no test clips


@dataclass(frozen=True)
class Labels:
    """A label set: the options of `bevt finetune` that name its clips, and how many it trains on."""

    name: str  # of the folder of its fine-tunings
    data: str
    per_class: float  # clips to train on at all labels
    classes: int
    needs: tuple[str, ...]

    def training_clips(self, share: float) -> int:
        """How many clips a share of the labels has."""
        return max(1, round(self.per_class * share)) * self.classes


@dataclass(frozen=True)
class RealVideos:
    """A folder of real videos: `playback` cuts clips of two directions from it; `classes` has a folder per class."""

    name: str
    root: str
    use: str


def motion(study: Study) -> Labels:
    """The motion of the camera, tested on other photographs."""
    data = "--frames {out}/train/frames --val-frames {out}/test/frames"
    return Labels("finetune", data, study.labelled, len(CLASSES), ("train", "test/dvae-v2"))


def held_out(study: Study) -> Labels:
    """The training clips of camera motion, of which a share is held out."""
    data = f"--frames {{out}}/train/frames --set val_share={VAL_SHARE}"
    return Labels("trials", data, (1 - VAL_SHARE) * study.labelled, len(CLASSES), ("train",))


def pictures(study: Study) -> Labels:
    """The photograph that a picture was cut from, which no motion shows. `pictures.py` tests on an eighth."""
    data = "--root {out}/pictures/train --val-root {out}/pictures/test --set sampling.frames=2"
    classes = len(PHOTOGRAPHS["train"])
    return Labels("finetune_pictures", data, study.images // classes * 7 // 8, classes, ("pictures",))


def real_labels(study: Study, videos: RealVideos) -> Labels:
    """Directions of playback, or the classes of folders, of which a share is held out."""
    name, store = f"finetune_{videos.name}", f"real/{videos.name}"
    if videos.use == "classes":
        folders = [folder for folder in sorted(Path(videos.root).iterdir()) if folder.is_dir()]
        clips = sum(kind_of(path.name) == "video" for folder in folders for path in folder.rglob("*"))
        data = f"--frames {{out}}/{store}/frames --set sampling.kind=uniform --set val_share={VAL_SHARE}"
        return Labels(name, data, (1 - VAL_SHARE) * clips / len(folders), len(folders), (store,))
    data = f"--frames {{out}}/{store}/train/frames --val-frames {{out}}/{store}/test/frames"
    return Labels(name, data, study.playback[0], 2, (f"{store}/train", f"{store}/test"))
