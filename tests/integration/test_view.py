"""`bevt view` as a command, and its pages in a real browser."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.reporting.marks import Html
from bevt_core.reporting.page import Page
from bevt_core.viewer.marks import final, renewed
from bevt_core.viewer.query import Query
from bevt_core.viewer.server import ViewServer
from bevt_core.viewer.site import Site
from pipeline.look.pages.dataset import dataset_site
from tests.support.builders import make_token_set
from tests.support.chromium import Chromium, chromium_path
from tests.support.hostile_names import NAMES
from tests.support.json_keys import CheckKeys

REPO = Path(__file__).parents[2]


def test_it_serves_until_ctrl_c(tmp_path: Path, json_keys: CheckKeys) -> None:
    make_token_set(tmp_path / "data", num_samples=2, frames=2)
    command = [sys.executable, "-m", "cli", "view", str(tmp_path / "data"), "--json"]
    with subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        printed = json.loads(process.stdout.readline())
        json_keys("view", printed)
        address = printed["address"]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{24}/", address)
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"2 samples" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == "note: Ctrl-C ends the page\ninterrupted\n"


def test_other_paths_are_one_error(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "data", num_samples=1, frames=1)
    expected = "a dataset, a run, or the folder of an evaluation"
    for path, message in {
        tmp_path / "x": f"no such file or folder; give {expected}",
        tmp_path: f"a folder with other content (data); give {expected}",
        tokens.frames.path: f"a frame store (token set {tokens.path}); give {tmp_path / 'data'}",
        tokens.path: f"a token set of the frame store {tokens.frames.path}; give {tmp_path / 'data'}",
    }.items():
        result = CliRunner().invoke(cli.app, ["view", str(path)])
        assert str(result.exception) == f"{path}: {message}"


@contextmanager
def served(site: Site) -> Iterator[ViewServer]:
    with ViewServer(site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if chromium_path() is None:
        pytest.skip("no Chromium on this machine")
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_a_part_is_renewed_until_it_is_final_or_the_server_ends(browser: Chromium) -> None:
    asked = {"ends": 0, "goes on": 0}

    def part(name: str) -> Html:
        asked[name] += 1
        text = Html(f"<p>{name} {asked[name]}</p>")
        return final(text) if name == "ends" and asked[name] > 3 else text

    def overview(query: Query) -> Page:
        page = Page("")
        page.mark(renewed("ends", 0.05, part("ends")))
        page.mark(renewed("on", 0.05, part("goes on")))
        return page

    pages = {"": overview, "ends": lambda query: part("ends"), "on": lambda query: part("goes on")}
    with served(Site(pages, {})) as server:
        browser.open(server.address)
        browser.wait("document.body.textContent.includes('ends 4')")
        seen = asked["goes on"]
        browser.wait(f"document.body.textContent.includes('goes on {seen + 3}')")
        assert asked["ends"] == 4
    browser.wait("document.querySelector('[data-renew=on]').classList.contains('stale')")
    assert browser.run("document.querySelectorAll('.stale').length") == 1


def test_sliders_draw_masks_in_a_browser(browser: Chromium, tmp_path: Path) -> None:
    make_token_set(tmp_path, num_samples=3, frames=8, tag=NAMES[2])
    site = dataset_site(tmp_path)
    assert site is not None
    browser.open("about:blank")  # the page of another test asks no more
    browser.blocked.clear()
    loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    masked = "document.querySelector('form[data-live] + div').textContent"
    with served(site) as server:
        browser.open(f"{server.address}sample?part=0&row=1")
        assert NAMES[2] in browser.run("document.querySelector('h1').textContent")
        browser.run("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        browser.wait(loaded)
        assert browser.run(masked).startswith("tube: ")
        browser.run("""
          const field = (name) => document.querySelector(`[name=${name}]`);
          field("kind").value = "random_3d";
          field("ratio").value = 75;
          field("ratio").dispatchEvent(new Event("input", { bubbles: true }));
        """)
        browser.wait(f"{masked}.startsWith('random_3d: 75.0%')")
        assert browser.run("field('ratio').parentElement.querySelector('output').value") == "75"
        browser.wait(loaded)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        loads = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(name.startswith(server.address) for name in browser.run(loads))
        browser.open(server.address)
        browser.wait(loaded)
        assert browser.blocked == [], "the policy blocks nothing that the pages need"
        browser.run("document.images[0].src = 'thumb?part=9&row=9'")
        browser.wait("document.querySelector('.wall p')?.textContent.startsWith('There is no row 9 in part 9')")
