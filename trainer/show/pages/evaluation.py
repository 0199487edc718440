"""The pages of an evaluation: accuracies, the confusion matrix, and the clips behind each of its cells.

Legend: N clips, V classes, as in `trainer.show.pages.opened`.
"""

import numpy as np
from PIL import Image

from bevt_core.console.inert import html_text
from bevt_core.reporting.animations import webp
from bevt_core.reporting.charts import shortened
from bevt_core.reporting.marks import Html, bar
from bevt_core.reporting.page import Page
from bevt_core.viewer.marks import address, choose, film, link, neighbours, search_form
from bevt_core.viewer.query import Query
from bevt_core.viewer.site import Handler, Site
from trainer.show.pages.opened import OpenEvaluation
from trainer.testing.tables import confusion_picture

MATRIX_CLASSES = 25  # at most in a matrix of links; more are drawn
PAIRS = 20  # most frequent confusions that are listed
CLIPS = 12  # on a page
HEIGHT_PX = 160  # of a clip
SHADES = (0.02, 0.2, 0.4, 0.7)  # shares of a true class at which its cells become darker
MAX_CLIPS = 10**9
ANY = "any"


class EvaluationPages:
    """The pages of one evaluation."""

    def __init__(self, data: OpenEvaluation) -> None:
        self.data = data

    def site(self) -> Site:
        pages: dict[str, Handler] = {"": self.overview, "clips": self.clips, "clip": self.clip}
        return Site(pages, {"Evaluation": ".", "Clips": "clips"})

    def overview(self, query: Query) -> Page:
        result, confusion_VV = self.data.result, self.data.confusion_VV
        page = Page(f"Evaluation {self.data.path.name}")
        top5 = f" and {result['top5']:.1%} top-5" if len(self.data.classes) > 5 else ""  # else 100 % by definition
        page.text(
            f"{result['top1']:.1%} top-1{top5} of {result['num_videos']:,} clips of "
            f"{len(self.data.classes):,} classes; mean over classes {result['mean_class']:.1%}.",
            "lead",
        )
        asked = f"frames {result.get('temporal', 'normal')}, views {result['views']}, {result['num_failed']} unreadable"
        page.text(f"{self.data.path}: {result['data']}; {asked}", "quiet")
        page.heading("Confusion matrix")
        if len(self.data.classes) <= MATRIX_CLASSES:
            page.text("Rows are true classes, columns predictions. A number leads to its clips.", "quiet")
            page.mark(self._matrix())
        else:
            page.chart(confusion_picture(confusion_VV, self.data.classes), "shares of each true class")
        page.heading("Most frequent confusions")
        wrong_VV = confusion_VV * ~np.eye(len(confusion_VV), dtype=bool)
        order = np.argsort(-wrong_VV, axis=None, kind="stable")[:PAIRS]
        pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong_VV.shape), strict=True) if wrong_VV[i, j]]
        rows = [
            (self.data.classes[i], self.data.classes[j], link(f"{wrong_VV[i, j]:,}", _cell(int(i), int(j))))
            for i, j in pairs
        ]
        page.table(["true class", "predicted", "clips"], rows)
        page.heading("Classes")
        self._per_class(page)
        return page

    def clips(self, query: Query) -> Page:
        """The clips of a true class, a predicted one, or both: a cell of the matrix."""
        scores = self.data.scores
        names = {ANY: "any class"} | {str(label): name for label, name in enumerate(self.data.classes)}
        true, predicted = query.choice("true", names, ANY), query.choice("predicted", names, ANY)
        number = query.integer("page", 0, MAX_CLIPS, 0)
        kept_N = np.ones(len(scores.label_N), bool)
        kept_N &= scores.label_N == int(true) if true != ANY else True
        kept_N &= scores.prediction_N == int(predicted) if predicted != ANY else True
        found = np.flatnonzero(kept_N)
        found = found[np.argsort(-scores.confidence_N[found], kind="stable")]
        page = Page("Clips")
        fields = [choose("True class", "true", names, true), choose("Predicted", "predicted", names, predicted)]
        page.mark(search_form("clips", fields, "Show"))
        page.text(f"{len(found):,} clips, the most confident first.", "quiet")
        shown = found[number * CLIPS : (number + 1) * CLIPS].tolist()
        if self.data.shows_clips:
            with page.arranged("films"):
                for at in shown:
                    moving, still = address("clip", number=at), address("clip", number=at, still=1)
                    page.mark(film(moving, still, self.data.video(at), self._caption(at)))
        else:
            page.text("To see them, give their frame store or the root of their files: bevt view --clips.", "quiet")
            rows = [
                (self.data.video(at), self._name(scores.label_N[at]), self._name(scores.prediction_N[at]), float(score))
                for at, score in zip(shown, scores.confidence_N[shown], strict=True)
            ]
            page.table(["clip", "true class", "predicted", "score"], rows)
        page.mark(neighbours("clips", number, CLIPS, len(found), true=true, predicted=predicted))
        return page

    def clip(self, query: Query) -> bytes:
        """A film of a clip."""
        frames = [_scaled(frame) for frame in self.data.frames(query.integer("number", 0, MAX_CLIPS))]
        return webp(frames[len(frames) // 2 :][:1] if query.integer("still", 0, 1, 0) else frames)

    def _name(self, label: int) -> str:
        return self.data.classes[label]

    def _caption(self, number: int) -> str:
        scores = self.data.scores
        true, predicted = self._name(scores.label_N[number]), self._name(scores.prediction_N[number])
        verdict = f"{true}, recognised" if true == predicted else f"{true}, taken for {predicted}"
        return f"{verdict} with {scores.confidence_N[number]:.0%}: {self.data.video(number)}"

    def _matrix(self) -> Html:
        confusion_VV, classes = self.data.confusion_VV, self.data.classes
        head = "".join(f"<th>{html_text(shortened(name, 24))}</th>" for name in classes)
        rows = [f"<tr><th></th>{head}</tr>"]
        for label, name in enumerate(classes):
            total = max(1, int(confusion_VV[label].sum()))
            cells = [f"<th>{html_text(shortened(name, 24))}</th>"]
            for predicted, clips in enumerate(confusion_VV[label].tolist()):
                shade = sum(clips / total >= share for share in SHADES)
                kind = f' class="m{shade}"' if shade else ""
                cells.append(f"<td{kind}>{link(f'{clips:,}', _cell(label, predicted)) if clips else ''}</td>")
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return Html(f'<div class="scroll"><table class="matrix">{"".join(rows)}</table></div>')

    def _per_class(self, page: Page) -> None:
        right_V, all_V = np.diag(self.data.confusion_VV), self.data.confusion_VV.sum(axis=1)
        share_V = right_V / np.maximum(all_V, 1)
        rows = [
            (link(self.data.classes[label], address("clips", true=label)), int(all_V[label]), _share(share_V[label]))
            for label in np.argsort(share_V, kind="stable").tolist()
            if all_V[label]
        ]
        page.table(["class, worst first", "clips", "recognised"], rows)


def _share(share: float) -> Html:
    return Html(f"{100 * share:.1f}&thinsp;%{bar(share)}")


def _cell(label: int, predicted: int) -> str:
    return address("clips", true=label, predicted=predicted)


def _scaled(frame_HWC: np.ndarray) -> np.ndarray:
    """Scale a frame to a height of HEIGHT_PX, and to at most 3 times that width."""
    height, width = frame_HWC.shape[:2]
    size = (min(max(1, round(width * HEIGHT_PX / height)), 3 * HEIGHT_PX), HEIGHT_PX)
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BICUBIC))
