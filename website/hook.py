"""What mkdocs calls while it builds the site: see the `on_` functions of its plugins."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))  # mkdocs loads this file by its path

from website import links, messages, navigation, notebooks  # noqa: E402
from website.reference import GENERATED  # noqa: E402

MERMAID = "assets/mermaid.tiny.js"  # only on pages with a drawing: it has 2.5 MB


def on_config(config: Any) -> None:
    """Fill the navigation from the folders in docs/."""
    config.nav = navigation.navigation(Path(config.docs_dir))


def on_files(files: Files, config: Any) -> None:
    """Add the pages outside docs/, notebooks as pages, and the site's own files."""
    for path, place in links.PROJECT_PAGES.items():
        if place != "index.md":
            text = links.on_site((REPO / path).read_text(), path, place, config.repo_url)
            files.append(File.generated(config, place, content=text))
    for notebook in Path(config.docs_dir).rglob("*.ipynb"):
        place = notebook.relative_to(config.docs_dir).with_suffix(".md").as_posix()
        files.append(File.generated(config, place, content=notebooks.as_markdown(notebook.read_text(), notebook.name)))
    for asset in (REPO / "website" / "assets").iterdir():
        files.append(File.generated(config, f"assets/{asset.name}", abs_src_path=str(asset)))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in generated reference, and lead links to files outside docs/ to where they are."""
    if page.file.generated_by is None:
        markdown = links.on_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri, config.repo_url)
    if page.file.src_uri == messages.PAGE:
        markdown = messages.with_messages(markdown, messages.messages(messages.sources()))
    return links.replace_marks(markdown, GENERATED)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Load the script that draws diagrams on the pages that have one."""
    if 'class="mermaid"' not in html:
        return html
    return f'<script src="{get_relative_url(MERMAID, page.url)}"></script>\n{html}'
