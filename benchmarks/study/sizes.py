"""How much of everything the study runs: in full, and a few steps of everything to try the commands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """How much of everything."""

    labelled: int  # clips per class
    unlabelled: int
    few: int  # clips of which N views are stored
    images: int
    steps: int  # of pretraining
    finetune_steps: int
    shares: tuple[float, ...]  # of the labels
    share: float  # for the tables with one column
    picture_share: float  # of the labels of pictures
    playback: tuple[int, int]  # clips per direction cut from real videos, to train on and to test on
    seeds: tuple[int, ...]
    batch: int = 32
    image_batch: int = 64


FULL = Study(
    labelled=512,
    unlabelled=8192,
    few=1024,
    images=4096,
    steps=750,
    finetune_steps=400,
    shares=(0.01, 0.05, 0.2, 1.0),
    share=0.2,
    picture_share=0.05,
    playback=(1024, 192),
    seeds=(0, 1, 2),
)
TINY = Study(
    labelled=8,
    unlabelled=64,
    few=32,
    images=64,
    steps=3,
    finetune_steps=2,
    shares=(0.5, 1.0),
    share=1.0,
    picture_share=0.5,
    playback=(16, 8),
    seeds=(0,),
)
