"""Links, navigation and notebooks of the site."""

import json
from pathlib import Path

from website.links import on_site, replace_marks
from website.navigation import KINDS, navigation
from website.notebooks import as_markdown

URL = "https://example.org/bevt"


def test_links_lead_to_their_place_on_the_site() -> None:
    text = "[a](../../CONTRIBUTING.md#checks), [b](../how-to/x.md), ![c](y.png), [d](https://example.org), [e](#f)"
    assert on_site(text, "docs/reference/page.md", "reference/page.md", None) == (
        "[a](../project/contributing.md#checks), [b](../how-to/x.md), ![c](y.png), [d](https://example.org), [e](#f)"
    )
    assert on_site("[a](x.ipynb)", "docs/tutorials/y.md", "tutorials/y.md", None) == "[a](x.md)"
    assert (
        on_site("[a](docs/reference/x.md#y)", "SECURITY.md", "project/security.md", None) == "[a](../reference/x.md#y)"
    )


def test_links_to_files_that_the_site_does_not_have() -> None:
    text = "[the script](../../benchmarks/gpu/run.sh) and `[code](../../x.py)`\n```\n[code](../../x.py)\n```\n"
    changed = on_site(text, "docs/explanation/gpu.md", "explanation/gpu.md", f"{URL}/")
    assert changed == text.replace("(../../benchmarks", f"({URL}/blob/main/benchmarks")
    changed = on_site(text, "docs/explanation/gpu.md", "explanation/gpu.md", None)
    assert changed == text.replace("[the script](../../benchmarks/gpu/run.sh)", "the script")


def test_marks_are_replaced() -> None:
    assert replace_marks("# A\n\n<!-- generated: x -->\n", {"x": lambda: r"a \1"}) == "# A\n\na \\1\n"


def test_new_pages_are_in_the_navigation(tmp_path: Path) -> None:
    pages = {"how-to/ssv2.md": "C", "how-to/b.md": "A title", "how-to/a.md": "Z", "tutorials/first-run.ipynb": "{}"}
    for name, title in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(title)
    nav = {title: pages for entry in navigation(tmp_path) for title, pages in entry.items()}
    assert nav["How-to"] == [{"Data": ["how-to/ssv2.md"]}, "how-to/b.md", "how-to/a.md"]  # by title
    assert nav["Tutorials"] == ["tutorials/first-run.md"] and "Explanation" not in nav


def test_grouped_pages_exist() -> None:
    names = [f"{kind.folder}/{name}" for kind in KINDS for group in kind.groups.values() for name in group]
    folder = Path(__file__).parents[3] / "docs"
    missing = [name for name in names if not any((folder / f"{name}.{suffix}").is_file() for suffix in ("md", "ipynb"))]
    assert [name for name in missing if not name.startswith("tutorials/")] == []


def test_notebooks_become_markdown() -> None:
    outputs = [
        {"output_type": "stream", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# First run\n", "Text."]},
        {"cell_type": "code", "source": "print('one')", "outputs": outputs},
    ]
    assert as_markdown(json.dumps({"cells": cells}), "first-run.ipynb") == (
        "# First run\nText.\n\n[Download this notebook](first-run.ipynb)\n\n"
        "```python\nprint('one')\n```\n\n```text\none\ntwo\n```\n\n"
        "![output](data:image/png;base64,QUJD)\n"
    )
