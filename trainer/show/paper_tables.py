"""BEVT's rows of the paper's Tables 1 and 3 to 6, with the figures that we know.

https://arxiv.org/abs/2112.01529. With DALL-E's tokens, 70.6 and 86.7 are in the abstract of its first version; with
PeCo's, 71.4 and 87.2 are in the abstract of its third. The figures of Kinetics-400 are in the README of the original
code, github.com/xyzforever/BEVT. None marks a figure that we did not find. We know the rows of Table 6 only
second-hand, and do not know which of Tables 3 to 5 belongs to which data set.
"""

from dataclasses import dataclass, replace

from trainer.show.run_facts import Setting


@dataclass(frozen=True)
class PaperRow:
    """One accuracy of the paper, and its setting."""

    name: str
    setting: Setting
    top1: float | None  # share; None: not in our notes
    source: str = "paper"


@dataclass(frozen=True)
class PaperTable:
    title: str
    rows: tuple[PaperRow, ...]


DATA = {"k400": "Kinetics-400", "ssv2": "Something-Something V2", "diving48": "Diving48"}
UNSTATED = ""  # a field that the paper does not state: it is not compared
JOINT = Setting(
    data="k400",
    encoder="Swin-B",
    pretraining="image -> joint",
    tokenizer="dalle",
    image_epochs="800",
    video_epochs="150",
    epochs="60",
    frames="32 every 2",
    views="4x3",
)
BY_DATA = {
    "k400": JOINT,
    "ssv2": replace(JOINT, data="ssv2", views="1x3", frames="32 uniform"),
    # the paper gives no recipe for Diving48
    "diving48": replace(JOINT, data="diving48", views=UNSTATED, epochs=UNSTATED, frames=UNSTATED),
}
WITH_DALLE = {"k400": 0.806, "ssv2": 0.706, "diving48": 0.867}
WITH_PECO = {"k400": 0.811, "ssv2": 0.714, "diving48": 0.872}
PRETRAINED_BY = ("pretraining", "tokenizer", "image_epochs", "video_epochs")


def _variants(names: dict[str, Setting]) -> tuple[PaperRow, ...]:
    """The joint row with its figures, and the other rows, whose figures are not in our notes, for all data sets."""
    return tuple(
        PaperRow(
            f"{title}, {DATA[data]}",
            replace(BY_DATA[data], **{name: getattr(setting, name) for name in PRETRAINED_BY}),
            WITH_DALLE[data] if setting == JOINT else None,
        )
        for data in DATA
        for title, setting in names.items()
    )


def _with_tokenizers(data: str) -> tuple[PaperRow, ...]:
    setting = BY_DATA[data]
    rows = (
        PaperRow("BEVT, DALL-E's tokens", setting, WITH_DALLE[data]),
        PaperRow("BEVT, PeCo's tokens", replace(setting, tokenizer="peco"), WITH_PECO[data]),
    )
    if data != "k400":
        return rows
    more = replace(setting, tokenizer="peco", epochs="100")
    longer = PaperRow("BEVT, PeCo's tokens, 100 epochs", more, 0.815, "README of the original code")
    return (*rows, longer)


TABLES = (
    PaperTable(
        "Table 1: pretraining data",
        _variants(
            {
                "from scratch": replace(JOINT, pretraining="none", tokenizer="none", image_epochs="", video_epochs=""),
                "images alone": replace(JOINT, pretraining="image", video_epochs=""),
                "videos alone": replace(JOINT, pretraining="video", image_epochs=""),
                "images, then videos": replace(JOINT, pretraining="image -> video"),
                "images, then both": JOINT,
            }
        ),
    ),
    *(PaperTable(f"Tables 3 to 5: {DATA[data]}", _with_tokenizers(data)) for data in DATA),
    PaperTable(
        "Table 6: how the streams are joined",
        _variants(
            {
                "one encoder, from images": JOINT,
                "one encoder, from scratch": replace(JOINT, pretraining="joint", image_epochs=""),
                "an encoder per stream": replace(JOINT, pretraining="image -> joint, separate encoders"),
            }
        ),
    ),
)
