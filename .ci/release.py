"""Release a version: checks, version numbers, changelog, build and test of the package, commit and tag. Never pushes.

python .ci/release.py 0.2.0 [--dry-run]      what `make release` runs
python .ci/release.py --check-tag v0.2.0     whether the tag agrees with the files, for the release workflow
"""

import argparse
import datetime
import difflib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
UNRELEASED = "## [Unreleased]"
FIRST = "Nothing has been released yet"  # begins the paragraph that the first release removes
VERSION_LINES = {
    "pyproject.toml": r'^version = "(.*)"$',
    "CITATION.cff": r"^version: (.*)$",
    "CHANGELOG.md": r"^## \[(\d.*)\] - \d{4}-\d{2}-\d{2}$",
}


class Refusal(Exception):
    """Why nothing is released."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Release a version of bevt.")
    parser.add_argument("version", nargs="?", help="new version, such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--check-tag", metavar="TAG", help="only check that TAG is the version in the files")
    given = parser.parse_args()
    try:
        if given.check_tag:
            check_tag(given.check_tag)
        elif given.version:
            release(given.version, given.dry_run)
        else:
            raise Refusal("no version; run `make release VERSION=0.2.0`")
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    return 0


def check_tag(tag: str) -> None:
    """Raise Refusal unless every file has the tag's version."""
    for name, pattern in VERSION_LINES.items():
        found = re.search(pattern, (ROOT / name).read_text(), flags=re.MULTILINE)
        version = found[1] if found else "none"
        if f"v{version}" != tag:
            raise Refusal(f"{name}: version {version}, expected that of the tag {tag}; make tags with `make release`")


def release(version: str, dry_run: bool) -> None:
    """Set the version, build and test the package, commit and tag. Undoes its changes if the package fails."""
    tag = f"v{version}"
    if not VERSION.fullmatch(version):
        raise Refusal(f"version {version!r}, expected MAJOR.MINOR.PATCH, such as 0.2.0 or 0.2.0rc1")
    if git("tag", "--list", tag):
        raise Refusal(f"tag {tag} exists; choose another version")
    if changes := git("status", "--porcelain"):
        raise Refusal(f"{len(changes.splitlines())} uncommitted files; commit or stash them first")
    today = datetime.date.today().isoformat()
    texts = {name: (ROOT / name).read_text() for name in VERSION_LINES}
    updated = updated_files(texts, version, today)
    if dry_run:
        for name, text in updated.items():
            lines = difflib.unified_diff(texts[name].splitlines(), text.splitlines(), name, name, n=0, lineterm="")
            print("\n".join(lines))
        print(f"then: make package; git commit; git tag {tag}")
        return
    for name, text in updated.items():
        (ROOT / name).write_text(text)
    if subprocess.run(["make", "package"], cwd=ROOT).returncode != 0:
        git("checkout", "--", *updated)
        raise Refusal("`make package` failed; nothing was committed")
    git("commit", "--quiet", "--message", f"Release {version}", "--", *updated)
    git("tag", "--annotate", tag, "--message", f"bevt {version}")
    print(f"{tag} is tagged; publish it with: git push origin HEAD {tag}")


def updated_files(texts: dict[str, str], version: str, date: str) -> dict[str, str]:
    """Return the three files with the new version. Raises Refusal if there is nothing to release."""
    before, marker, after = texts["CHANGELOG.md"].partition(UNRELEASED)
    entries = after.split("\n## ")[0]
    if not marker or "\n- " not in entries:
        raise Refusal(f"CHANGELOG.md: no entries under {UNRELEASED}; describe what users notice")
    kept = "\n\n".join(part for part in entries.strip().split("\n\n") if not part.startswith(FIRST))
    changelog = f"{before}{UNRELEASED}\n\n## [{version}] - {date}\n\n{kept}\n{after[len(entries) :]}"
    citation = re.sub(r"^date-released: .*\n", "", texts["CITATION.cff"], flags=re.MULTILINE)
    return {
        "pyproject.toml": replaced_once(r'^version = ".*"$', f'version = "{version}"', texts["pyproject.toml"]),
        "CITATION.cff": replaced_once(r"^version: .*$", f"version: {version}\ndate-released: {date}", citation),
        "CHANGELOG.md": changelog,
    }


def replaced_once(pattern: str, line: str, text: str) -> str:
    """Return the text with its only line of that pattern replaced."""
    replaced, count = re.subn(pattern, line, text, flags=re.MULTILINE)
    assert count == 1, f"{count} lines match {pattern}"
    return replaced


def git(*arguments: str) -> str:
    """Run git in the repository, and return what it prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
