"""`bevt push` and `bevt pull`: the same bytes on the other side, continued after faults, never whole by mistake."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.one_writer import hold
from pipeline import verify
from pipeline.growth.extend import extend
from pipeline.job.run import tokenize
from pipeline.share import pull as pulling
from pipeline.share import push as pushing
from schemas.errors import UserError
from tests.support.archives import write_pictures
from tests.support.builders import make_token_set
from tests.support.hub_server import TOKEN, HubServer, Repository, hub_server, nth
from tests.support.inline_jobs import without_ray
from tests.support.json_keys import CheckKeys
from tests.support.processes import elsewhere
from tests.support.tiny_jobs import digests, tiny_recipe

TO = "lab/mine"
NOT_SHARED = {"report.html", "tokenizer-place.json"}
MANIFESTS = {"frames/dataset.json", "tokens/test-v2/dataset.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two parts, with files that stay at home."""
    root = tmp_path_factory.mktemp("made") / "mine"
    make_token_set(root, num_samples=6, sources_per_part=3, frames=2)
    (root / "tokens" / "test-v2" / "tokenizer-place.json").write_text('{"folder": "/home/me"}')
    (root / "tokens" / "test-v2" / "report.html").write_text("a report")
    return root


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pushing, "MAX_FILES", 7)  # several commits
    with hub_server(tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def bevt(*arguments: object) -> dict[str, Any]:
    """What the command prints. Raises its error."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.output.splitlines()[-1])
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a dataset that are shared."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: data for path, data in files.items() if Path(path).name not in NOT_SHARED}


def repository(hub: HubServer) -> Repository:
    return hub.repositories["dataset", TO]


def shared(hub: HubServer) -> dict[str, bytes]:
    return {path: data for path, data in repository(hub).files.items() if "/" in path}


def test_there_and_back(mine: Path, hub: HubServer, tmp_path: Path, json_keys: CheckKeys) -> None:
    result = bevt("push", mine, TO, "--private")
    json_keys("push", result)
    assert shared(hub) == contents(mine) and repository(hub).private
    assert result["pushed"] == f"hf://{TO}@{repository(hub).commits[-1][0]}"
    assert result["files"] == len(contents(mine)) and result["uploaded"] == result["files"] + 1  # and README.md
    for _, files in repository(hub).commits[:-1]:  # no incomplete revision looks finished
        whole = {path for path in MANIFESTS if path in files}
        assert whole <= {"frames/dataset.json"}
        if whole:
            assert {path for path in contents(mine) if path.startswith("frames/")} <= files.keys()

    pulled = bevt("pull", TO, tmp_path / "pulled")
    json_keys("pull", pulled)
    assert contents(tmp_path / "pulled") == contents(mine) and (pulled["parts"], pulled["fetched"]) == (4, 4)
    assert TokenSet(tmp_path / "pulled" / "tokens" / "test-v2").digest == TokenSet(mine / "tokens" / "test-v2").digest
    assert not list((tmp_path / "pulled").glob(".*"))  # no staging or lock is left

    commits, hub.requests = len(repository(hub).commits), []
    assert bevt("push", mine, TO)["uploaded"] == 0 and len(repository(hub).commits) == commits
    assert bevt("pull", result["pushed"], tmp_path / "pulled")["fetched"] == 0
    assert not hub.count(r"PUT|preupload|part-")


def test_a_grown_dataset_is_pulled_whole_or_into_an_older_copy(hub: HubServer, tmp_path: Path) -> None:
    """With the plans of its extensions; into an older copy, only the new parts are fetched."""
    recipe = tiny_recipe(write_pictures(tmp_path / "raw", "x/0.jpg", "y/1.jpg"), tmp_path / "grown", Path("unused"))
    with without_ray():
        tokenize(recipe, frames_only=True, progress="off")
        bevt("push", "grown", TO)
        bevt("pull", TO, "older")
        for name in ("x/2.jpg", "z/3.jpg"):
            write_pictures(tmp_path / "raw", name)
            extend(tmp_path / "grown", tmp_path / "raw", progress="off")
    bevt("push", "grown", TO)
    assert bevt("pull", TO, "older")["fetched"] == 2 and bevt("pull", TO, "copy")["fetched"] == 3
    assert digests(tmp_path / "copy") == digests(tmp_path / "older") == digests(tmp_path / "grown")
    assert verify(tmp_path / "copy")["ok"]

    files = repository(hub).files
    repository(hub).commit({path: data for path, data in files.items() if not path.endswith("plan-0001.json")})
    with pytest.raises(UserError, match=r"frames: plan-0001\.json is missing; its owner should push again"):
        bevt("pull", TO, "lacking")
    repository(hub).commit({**files, "frames/plan-0001.json": files["frames/plan-0002.json"]})
    with pytest.raises(UserError, match=r"plan\.json and dataset\.json are of different sets"):
        bevt("pull", TO, "mixed")
    assert not (tmp_path / "lacking/frames").exists() and not (tmp_path / "mixed/frames").exists()


def test_tokens_alone_join_frames_that_are_there(mine: Path, hub: HubServer, tmp_path: Path) -> None:
    assert bevt("push", mine / "tokens" / "test-v2", TO)["sets"] == ["tokens/test-v2"]
    assert not [path for path in shared(hub) if path.startswith("frames")]
    readme = repository(hub).files["README.md"].decode()
    assert "- config_name: tokens-test-v2\n  data_files: tokens/test-v2/*.parquet\n" in readme
    assert "config_name: frames-index" not in readme
    shutil.copytree(mine / "frames", tmp_path / "other" / "frames")
    bevt("pull", TO, "other")
    assert contents(tmp_path / "other") == contents(mine)
    bevt("push", mine / "frames", TO)
    readme = repository(hub).files["README.md"].decode()
    assert "config_name: frames-index" in readme and "config_name: tokens-test-v2" in readme
    make_token_set(tmp_path / "third", num_samples=3, frames=2, tag="x")
    with pytest.raises(UserError, match=r"made from the frame store [0-9a-f]{12}, but third/frames is [0-9a-f]{12}"):
        shutil.rmtree(tmp_path / "third" / "tokens")
        repository(hub).commit({path: data for path, data in shared(hub).items() if path.startswith("tokens")})
        bevt("pull", TO, "third")


def test_a_card_of_the_owner_is_kept(mine: Path, hub: HubServer) -> None:
    bevt("push", mine / "frames", TO)
    repository(hub).commit(repository(hub).files | {"README.md": b"# Mine"})
    bevt("push", mine, TO)
    assert repository(hub).files["README.md"] == b"# Mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ("create", 500),
        ("GET .*/tree", 429),
        ("GET .*/tree", "cut"),
        ("preupload", 500),
        ("batch", "cut"),
        ("PUT", 503),
        ("commit", 500),
        ("commit", "cut"),  # the commit has arrived
        ("commit", "silent"),
    ],
)
def test_a_brief_fault_of_a_push_is_not_noticed(fault: int | str, request_: str, mine: Path, hub: HubServer) -> None:
    hub.fault = nth(0 if request_ == "create" else 1, request_, fault)
    bevt("push", mine, TO)
    assert shared(hub) == contents(mine)


@pytest.mark.parametrize("fault", [403, "cut"])
def test_a_push_that_failed_continues(fault: int | str, mine: Path, hub: HubServer, tmp_path: Path) -> None:
    """What was pushed is never read as a whole set, and is not pushed again."""
    lasting = nth(1, "POST .*/commit", fault)
    broken: list[str] = []

    def fails_for_good(request: str) -> int | str | None:
        broken.extend([request] if broken or lasting(request) else [])
        return fault if broken and ("/commit" in request or "/tree" in request) else None

    hub.fault = fails_for_good
    with pytest.raises(UserError, match="hf://lab/mine: "):
        bevt("push", mine, TO)
    hub.fault = lambda request: None
    assert 0 < len(shared(hub)) < len(contents(mine)) and not MANIFESTS & shared(hub).keys()
    with pytest.raises(UserError, match="frames is not finished; run its `bevt push` again; expected what `bevt push`"):
        bevt("pull", TO, tmp_path / "pulled")
    there = len(shared(hub))
    assert bevt("push", mine, TO)["uploaded"] == len(contents(mine)) - there
    assert shared(hub) == contents(mine)


def test_a_newer_version_replaces_an_older_one(mine: Path, hub: HubServer, tmp_path: Path) -> None:
    """Between the two nothing looks finished, and no file of the older one is left."""
    make_token_set(tmp_path / "other", num_samples=9, sources_per_part=3, frames=2, tag="x")
    bevt("push", tmp_path / "other", TO)
    before = len(repository(hub).commits)
    first = repository(hub).commits[-1][0]
    bevt("push", mine, TO)
    assert shared(hub) == contents(mine)
    for _, files in repository(hub).commits[before:-1]:
        assert "tokens/test-v2/dataset.json" not in files
        assert files.get("frames/dataset.json") in (None, contents(mine)["frames/dataset.json"])
    bevt("pull", f"{TO}@{first}", tmp_path / "older")
    assert contents(tmp_path / "older") == contents(tmp_path / "other")
    with pytest.raises(UserError, match="older/frames: contains another set than hf://lab/mine@"):
        bevt("pull", TO, tmp_path / "older")
    assert contents(tmp_path / "older") == contents(tmp_path / "other")


def test_a_second_writer_is_refused(mine: Path, hub: HubServer) -> None:
    def other_commit(request: str) -> None:
        if re.search("POST .*/commit", request) and len(repository(hub).commits) == 2:
            repository(hub).commit(repository(hub).files | {"other": b""})

    hub.fault = other_commit  # type: ignore[assignment]
    with pytest.raises(UserError, match="another writer has changed it meanwhile; run the same command again"):
        bevt("push", mine, TO)


def test_a_file_that_the_repository_does_not_keep_is_named(
    mine: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a .gitignore that names it."""
    kept = Repository.commit

    def without_commits(self: Repository, files: dict[str, bytes], *rest: Any) -> str:
        return kept(self, {path: data for path, data in files.items() if "commit.json" not in path}, *rest)

    monkeypatch.setattr(Repository, "commit", without_commits)
    with pytest.raises(UserError, match=r"frames/part-00000/commit.json was pushed, but the repository does not have"):
        bevt("push", mine, TO)


def test_one_writer_of_a_folder(mine: Path, hub: HubServer, tmp_path: Path) -> None:
    hub.add(TO, mine, "dataset")
    with elsewhere(hold(tmp_path / "pulled", "bevt tokenize")), pytest.raises(UserError, match="is writing"):
        bevt("pull", TO, tmp_path / "pulled")
    assert not contents(tmp_path / "pulled")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard": (
        lambda root: flip(root / "frames" / "part-00001" / "frames.zarr" / "jpeg" / "c" / "0"),
        "c/0: digest [0-9a-f]{12}, but its commit has [0-9a-f]{12}; run `bevt verify`",
    ),
    "a cut shard": (
        lambda root: os.truncate(root / "frames" / "part-00001" / "frames.zarr" / "jpeg" / "c" / "0", 100),
        r"c/0: 100 bytes, but its commit has \d+",
    ),
    "tokens": (lambda root: flip(root / "tokens" / "test-v2" / "part-00001.parquet"), "digest [0-9a-f]{12}, but its"),
    "a commit": (lambda root: (root / "frames" / "part-00001" / "commit.json").unlink(), "commit.json: missing; run"),
    "another commit": (
        lambda root: shutil.copy(
            root / "tokens" / "test-v2" / "part-00001.json", root / "tokens" / "test-v2" / "part-00000.json"
        ),
        "bevt verify",
    ),
    "no manifest": (lambda root: (root / "frames" / "dataset.json").unlink(), "is not finished; run the same"),
}


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dataset_is_not_pushed(damage: str, mine: Path, hub: HubServer) -> None:
    spoil, error = DAMAGE[damage]
    spoil(mine)
    with pytest.raises(UserError, match=error):
        bevt("push", mine, TO)
    assert ("dataset", TO) not in hub.repositories or "tokens/test-v2/dataset.json" not in shared(hub)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ("GET .*/tree", 500),
        ("HEAD .*part-", 429),
        ("GET .*resolve/.*part-", "cut"),
        ("GET .*resolve/.*part-", "wrong"),
        ("GET /objects/", 500),
        ("GET /objects/", "wrong"),
    ],
)
def test_a_brief_fault_of_a_pull_is_not_noticed(
    fault: int | str, request_: str, mine: Path, hub: HubServer, tmp_path: Path
) -> None:
    hub.add(TO, mine, "dataset")
    hub.fault = nth(1, request_, fault)
    bevt("pull", TO, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(mine)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("wrong", "part-0000[0-9].* has digest [0-9a-f]{12}, expected [0-9a-f]{12}; run the same command again"),
        ("cut", "no connection to http://127.0.0.1"),
        (503, "answered 503 each time"),
    ],
)
def test_a_pull_that_failed_continues(
    fault: int | str, error: str, mine: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The incomplete copy never looks finished, and its parts are not fetched again."""
    monkeypatch.setattr(pulling, "THREADS", 1)
    hub.add(TO, mine, "dataset")
    hub.fault = lambda request: fault if re.search(r"GET .*resolve/.*frames/part-00001/.*c/0", request) else None
    with pytest.raises(UserError, match=error):
        bevt("pull", TO, tmp_path / "pulled")
    found = contents(tmp_path / "pulled")
    assert not MANIFESTS & found.keys() and "frames/part-00000/commit.json" in found
    assert found.items() <= contents(mine).items()
    hub.fault = lambda request: None
    result = bevt("pull", TO, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(mine) and result["fetched"] < result["parts"]
    assert verify(tmp_path / "pulled", sample=0)["ok"]


def replaced(content: dict[str, bytes], path: str, **changes: Any) -> dict[str, bytes]:
    record = json.loads(content[path])
    return content | {path: json.dumps(record | changes).encode()}


COMMIT = "frames/part-00001/commit.json"
HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no dataset": (lambda files: {"train.csv": b"1"}, r"no dataset \(found: train.csv\); expected what `bevt push`"),
    "no files": (lambda files: {}, r"no dataset \(found: no files\)"),
    "a part is missing": (
        lambda files: {path: data for path, data in files.items() if "part-00001" not in path},
        "part-00001/commit.json is missing; its owner should push again",
    ),
    "a file is missing": (
        lambda files: {path: data for path, data in files.items() if path != "frames/part-00001/index.parquet"},
        "part-00001/index.parquet is missing",
    ),
    "a file of another size": (
        lambda files: files | {"frames/part-00001/index.parquet": b"PAR1"},
        r"part-00001/index.parquet has 4 bytes, expected \d+",
    ),
    "a file of other bytes": (
        lambda files: files | {"frames/part-00001/index.parquet": files["frames/part-00001/index.parquet"][:-1] + b"x"},
        "part-00001/index.parquet has digest [0-9a-f]{12}, expected",
    ),
    "a commit of another part": (
        lambda files: files | {COMMIT: files[COMMIT.replace("1", "0")]},
        "is the commit of part 0",
    ),
    "a name that leads out": (
        lambda found: replaced(found, COMMIT, files={"../../../x": {"sha256": "0", "num_bytes": 1}}),
        "is unexpected in a part|is missing in a part",
    ),
    "a huge record": (lambda files: files | {COMMIT: b" " * (5 << 20)}, r"has 5242880 bytes, expected at most"),
    "no record": (lambda files: files | {COMMIT: b"[]"}, "commit.json: .*expected"),
    "other parts": (
        lambda files: replaced(files, "frames/dataset.json", parts_digest="0" * 64),
        "its parts are not those of its dataset.json",
    ),
    "too many parts": (
        lambda files: replaced(files, "frames/dataset.json", num_parts=10**9),
        "1000000000 parts, but [0-9]+ files",
    ),
    "another plan": (lambda files: replaced(files, "frames/plan.json", seed=7), "plan.json and dataset.json are of"),
    "another name": (
        lambda files: replaced(files, "tokens/test-v2/dataset.json", name="other"),
        "plan.json and dataset.json are of different sets",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_repository_is_one_line(attack: str, mine: Path, hub: HubServer, tmp_path: Path) -> None:
    change, error = HOSTILE[attack]
    hub.add(TO, mine, "dataset")
    repository(hub).commit(change(repository(hub).files))
    with pytest.raises(UserError, match=error) as caught:
        bevt("pull", TO, tmp_path / "pulled")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") in (["mine"], ["mine", "pulled"])
    assert "tokens/test-v2/dataset.json" not in contents(tmp_path / "pulled")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["push", "mine", "mine"], "'mine' is no name of a repository; expected ORG/NAME"),
        (["push", "nothing", TO], "nothing: no such file or folder; expected a dataset, or its frames or tokens/NAME"),
        (["push", "s3://bucket/mine", TO], "s3://bucket/mine: not on a local disk; copy the dataset"),
        (["pull", TO, "s3://bucket/mine"], "s3://bucket/mine: not on a local disk; copy the dataset"),
        (["pull", "lab/none", "out"], "hf://lab/none: no such repository, or a private one"),
        (["pull", f"{TO}@v9", "out"], "the repository has no such branch, tag or commit"),
    ],
)
def test_what_is_refused_is_one_line(arguments: list[str], error: str, mine: Path, hub: HubServer) -> None:
    hub.add(TO, mine, "dataset")
    with pytest.raises(UserError, match=error):
        bevt(*arguments)
