"""Notebooks as Markdown: their text, their code and the outputs that are stored in them."""

import json


def as_markdown(notebook: str, name: str) -> str:
    """The cells of a Jupyter notebook, given as its JSON, as Markdown; a link to the file `name` follows the title."""
    title, *cells = (_cell(cell) for cell in json.loads(notebook)["cells"])
    return "\n\n".join([title, f"[Download this notebook]({name})", *cells]) + "\n"


def _cell(cell: dict[str, object]) -> str:
    source = _text(cell["source"])
    if cell["cell_type"] != "code":
        return source
    outputs = cell["outputs"]
    assert isinstance(outputs, list)
    return "\n\n".join([f"```python\n{source}\n```", *filter(None, map(_output, outputs))])


def _output(output: dict[str, object]) -> str:
    data = output.get("data")
    if isinstance(data, dict) and "image/png" in data:
        return f"![output](data:image/png;base64,{_text(data['image/png']).replace(chr(10), '')})"
    text = _text(data.get("text/plain", "") if isinstance(data, dict) else output.get("text", ""))
    return f"```text\n{text.rstrip()}\n```" if text else ""


def _text(lines: object) -> str:
    return "".join(lines) if isinstance(lines, list) else str(lines)
