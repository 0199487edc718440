"""The code blocks of the pages, their marks, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks) *$", re.M | re.S
)
MARK = re.compile(r"^ *<!-- (page )?(run by|not run): (.+) -->$")
LAUNCHERS = {
    "torchrun",
    "srun",
    "ssh",
    "exec",
    "nohup",
    "time",
    "timeout",
    "nice",
    "docker",
    "kubectl",
    "do",
    "then",
    "uv",
}
SEPARATORS = re.compile(r"[|&;()]+|[<>&]*[<>]+[<>&]*")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


class Block(NamedTuple):
    """A fenced block of a page; `mark` is (verb, text) of the comment before it, or of its page, or None."""

    page: Path
    line: int
    language: str
    text: str
    mark: tuple[str, str] | None


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file, without their indentation."""
    text = page.read_text()
    for_page = next((found for found in map(MARK.match, text.splitlines()) if found and found[1]), None)
    for fence in FENCE.finditer(text):
        before = text[: fence.start()].splitlines()
        own = MARK.match(before[-1]) if before else None
        mark = own if own and not own[1] else for_page
        body = re.sub(rf"^{fence['indent']}", "", fence["body"], flags=re.M)
        language, *_ = (*fence["info"].split(), "")
        yield Block(page, len(before) + 1, language, body, mark and (mark[2], mark[3]))


def shell_lines(text: str) -> Iterator[str]:
    """The lines of a script: continued lines and multi-line strings joined, here-documents left out."""
    line, end = "", ""
    for each in text.replace("\\\n", " ").splitlines():
        if end:
            end = "" if each.strip() == end else end
            continue
        line += each
        try:
            shlex.split(line, comments=True)
        except ValueError:  # an open quotation
            line += "\n"
            continue
        if found := HEREDOC.search(line):
            end = found[2]
        yield line
        line = ""
    if line:
        raise ValueError(f"no closing quotation: {line}")


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of every simple command in a script, those in quoted scripts included; redirections left out."""
    for line in shell_lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in lexer:
            if SEPARATORS.fullmatch(word):
                redirected = "<" in word or ">" in word
                if not redirected:
                    yield words
                    words = []
            elif redirected:
                redirected = False
            else:
                words.append(word)
                if " bevt " in f" {word}" and " " in word:
                    yield from simple_commands(word)
        yield words


def bevt_arguments(text: str) -> Iterator[list[str]]:
    """The arguments of every `bevt` command in a script, also of one behind a launcher such as torchrun."""
    for command in simple_commands(text):
        words = list(command)
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        if words and words[0] in LAUNCHERS and "bevt" in words:
            words = words[words.index("bevt") :]
        if words and words[0].rpartition("/")[2] == "bevt":
            yield words[1:]
