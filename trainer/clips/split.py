"""Which labelled clips are trained on: a held-out share of every class, and a share of the labels."""

from collections.abc import Sequence

from bevt_core.dataset.source_list import labels_of, sources_of, taken
from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.frames import SourceItem


def split_items(
    items: Sequence[SourceItem], val_share: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Sequence[SourceItem], Sequence[SourceItem]]:
    """Hold out `val_share` of every class, at least one source and never all: (train, held out), in the given order.

    A class's split depends only on its sources' names and the seed. The samples of a long video stay together. Raises
    UserError for a class with one source, naming it as in `classes`.
    """
    held_out: set[str] = set()
    for label, sources in _sources_by_label(items).items():
        if len(sources) < 2:
            name = repr(classes[label]) if label is not None and label < len(classes) else label
            raise UserError(
                f"class {name} has a single item, {min(sources)}, and one is held out; add more, or a validation set"
            )
        drawn = sorted(sources, key=lambda source: rng_for("split", seed, source).random())
        held_out.update(drawn[: min(len(sources) - 1, max(1, round(len(sources) * val_share)))])
    is_held_out = [source in held_out for source in sources_of(items)]
    return (
        taken(items, [at for at, held in enumerate(is_held_out) if not held]),
        taken(items, [at for at, held in enumerate(is_held_out) if held]),
    )


def share_of_labels(items: Sequence[SourceItem], share: float, seed: int) -> Sequence[SourceItem]:
    """Keep `share` of the sources of every class, at least one, in the given order: for learning from few labels.

    Of two shares with the same seed, the smaller one's sources are among the larger one's. The samples of a long video
    stay together.
    """
    kept: set[str] = set()
    for sources in _sources_by_label(items).values():
        drawn = sorted(sources, key=lambda source: rng_for("labels", seed, source).random())
        kept.update(drawn[: max(1, round(len(sources) * share))])
    return taken(items, [at for at, source in enumerate(sources_of(items)) if source in kept])


def _sources_by_label(items: Sequence[SourceItem]) -> dict[int | None, list[str]]:
    by_label: dict[int | None, dict[str, None]] = {}
    for label, source in zip(labels_of(items).to_pylist(), sources_of(items), strict=True):
        by_label.setdefault(label, {})[source] = None
    return {label: list(sources) for label, sources in by_label.items()}
