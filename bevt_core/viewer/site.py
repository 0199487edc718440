"""The pages of a site by name, and the answer to a request, whatever goes wrong in a page."""

import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bevt_core.console.terminal import print_lines
from bevt_core.reporting.marks import Html
from bevt_core.reporting.page import Page
from bevt_core.reporting.style import STYLE
from bevt_core.viewer.marks import links
from bevt_core.viewer.query import BadRequest, NoSuchPage, Query
from bevt_core.viewer.static import ICON, SCRIPT, VIEW_STYLE
from schemas.errors import UserError

HEAD = '<link rel="icon" href="icon.svg"><link rel="stylesheet" href="style.css"><script src="view.js" defer></script>'
HTML, CSS, JAVASCRIPT = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"

# a page, a part of a page that the script puts into it, or a picture as the bytes of a WebP or PNG file
Handler = Callable[[Query], Page | Html | bytes]


class Answer(NamedTuple):
    """The answer to a request: an HTTP status, the type of the content, and the content."""

    status: int
    kind: str
    body: bytes


class Site:
    """Pages by the name in their address; the first one is named "". `menu` has the links on every page."""

    def __init__(self, pages: Mapping[str, Handler], menu: Mapping[str, str]) -> None:
        self._pages, self._menu = pages, menu
        self._files = {
            "style.css": Answer(200, CSS, (STYLE + VIEW_STYLE).encode()),
            "icon.svg": Answer(200, "image/svg+xml", ICON.encode()),
            "view.js": Answer(200, JAVASCRIPT, SCRIPT.encode()),
        }
        self._one_at_a_time = threading.Lock()  # so that memory is that of one page, and pages may cache what they read

    def answer(self, name: str, query: str) -> Answer:
        """Answer the request for a page. An error in a page is a page too, and the next request is served."""
        if name in self._files:
            return self._files[name]
        handler = self._pages.get(name)
        if handler is None:
            return self.problem(404, "No such page", "Choose one of the links above.")
        try:
            with self._one_at_a_time:
                made = handler(Query(query))
        except NoSuchPage as error:
            return self.problem(404, "Not found", str(error))
        except BadRequest as error:
            return self.problem(400, "Unexpected address", str(error))
        except (UserError, OSError) as error:
            return self.problem(500, "This cannot be shown", str(error))
        except Exception as error:  # noqa: BLE001 - one page must not end the server
            print_lines("".join(traceback.format_exception(error)), sys.stderr)
            return self.problem(500, "This cannot be shown", f"{type(error).__name__}: {error}")
        if isinstance(made, Page):
            return self._page(200, made)
        if isinstance(made, Html):
            return Answer(200, HTML, made.encode())
        return Answer(200, "image/webp" if made[8:12] == b"WEBP" else "image/png", made)

    def problem(self, status: int, title: str, text: str) -> Answer:
        """A page that says what is wrong."""
        page = Page(title)
        page.text(text)
        return self._page(status, page)

    def _page(self, status: int, page: Page) -> Answer:
        page.blocks.insert(0, links(self._menu))
        return Answer(status, HTML, page.document(HEAD).encode())
