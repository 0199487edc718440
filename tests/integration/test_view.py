"""`bevt view` as a command, and its pages in a real browser."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.viewer.server import ViewServer
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
    for path, what in ((tmp_path, "an empty folder"), (tmp_path / "x", "no such file or folder")):
        result = CliRunner().invoke(cli.app, ["view", str(path)])
        assert f"{path}: {what}; expected a dataset, a run, or the folder of an evaluation" in str(result.exception)


@pytest.mark.skipif(chromium_path() is None, reason="no Chromium on this machine")
def test_sliders_draw_masks_in_a_browser(tmp_path: Path) -> None:
    make_token_set(tmp_path / "data", num_samples=3, frames=8, tag=NAMES[2])
    site = dataset_site(tmp_path / "data")
    assert site is not None
    with ViewServer(site) as server, Chromium(tmp_path / "profile") as browser:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            browser.open(f"{server.address}sample?part=0&row=1")
            assert NAMES[2] in browser.run("document.querySelector('h1').textContent")
            loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
            browser.run("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
            browser.wait(loaded)
            assert "tube: " in browser.run("document.querySelector('form[data-live] + div').textContent")
            browser.run("""
              const field = (name) => document.querySelector(`[name=${name}]`);
              field("kind").value = "random_3d";
              field("ratio").value = 75;
              field("ratio").dispatchEvent(new Event("input", { bubbles: true }));
            """)
            browser.wait("document.querySelector('form[data-live] + div').textContent.startsWith('random_3d: 75.0%')")
            assert browser.run("field('ratio').parentElement.querySelector('output').value") == "75"
            browser.wait(loaded)
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run(
                "performance.getEntriesByType('resource').every((r) => r.name.startsWith(location.origin))"
            )
            browser.open(server.address)
            browser.wait(loaded)
            assert browser.blocked == []
            browser.run("document.images[0].src = 'thumb?part=9&row=9'")
            browser.wait("document.querySelector('.wall p')?.textContent.startsWith('There is no row 9 in part 9')")
        finally:
            server.shutdown()
            thread.join()
