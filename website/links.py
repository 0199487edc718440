"""Links of pages whose place on the site is not that in the repository, and links to files that are not on the site."""

import posixpath
import re
from collections.abc import Callable

PROJECT_PAGES = {  # pages outside docs/ that the site has -> their place on it
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}
CODE_OR_LINK = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`(?!\])|\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.M | re.S)


def on_site(text: str, path: str, page: str, repo_url: str | None) -> str:
    """Markdown `text` of the repository's file `path`, with its links as the site's page `page` needs them.

    A link to a file that the site does not have leads to the repository at `repo_url`, or becomes plain text if the
    repository has no address.
    """

    def link(found: re.Match[str]) -> str:
        target, _, anchor = (found["target"] or "").partition("#")
        if not target or "://" in target or target.startswith(("mailto:", "/")):
            return found[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        place = PROJECT_PAGES.get(named) or (named.removeprefix("docs/") if named.startswith("docs/") else None)
        if place is None:
            return f"[{found['text']}]({repo_url.rstrip('/')}/blob/main/{named})" if repo_url else found["text"]
        place = place.replace(".ipynb", ".md")  # notebooks are pages
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"[{found['text']}]({relative}{'#' * bool(anchor)}{anchor})"

    return CODE_OR_LINK.sub(link, text)


def replace_marks(text: str, generated: dict[str, Callable[[], str]]) -> str:
    """Markdown `text` with each `<!-- generated: NAME -->` replaced by what its function returns."""
    return re.sub(r"^<!-- generated: (.+) -->$", lambda found: generated[found[1]](), text, flags=re.MULTILINE)
