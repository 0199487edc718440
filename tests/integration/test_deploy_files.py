"""Workflows, image, compose file, Slurm scripts and manifests: pinned, limited, and with commands that exist.

`make check-deploy` also runs their linters. Nothing here starts a container or a cluster.
"""

import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO

WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))
MANIFESTS = sorted((REPO / "deploy").glob("ku*/*.yaml"))
SCRIPTS = sorted((REPO / "deploy" / "slurm").glob("*.sbatch"))
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
OPERATORS = {"PyTorchJob": "kubeflow.org/v1", "RayJob": "ray.io/v1"}  # kinds that Kubernetes itself does not have


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=[path.name for path in paths])


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """The specs of all pod templates below `value`."""
    if isinstance(value, dict):
        if isinstance(template := value.get("template"), dict):
            yield template["spec"]
        for below in value.values():
            yield from pod_specs(below)
    elif isinstance(value, list):
        for below in value:
            yield from pod_specs(below)


@named(WORKFLOWS)
def test_a_workflow_is_pinned_limited_and_may_only_read(path: Path) -> None:
    uses = [line.strip(" -") for line in path.read_text().splitlines() if "uses:" in line]
    assert uses and not [line for line in uses if not PINNED.fullmatch(line)]
    (workflow,) = documents(path)
    assert workflow["permissions"] == {"contents": "read"}
    rules = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE)
    targets = {rule.replace("-", "_") for rule in rules}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 350
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
        for run in (step.get("run", "") for step in job["steps"]):
            if run.startswith("make "):
                assert set(itertools.takewhile(str.isidentifier, run.replace("-", "_").split()[1:])) <= targets, run


def test_one_version_of_each_action() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    actions = {tuple(found.split("@")) for found in re.findall(r"uses: (\S+@\w+)", text)}
    assert len({name for name, _ in actions}) == len(actions)


def commands() -> Iterator[list[str]]:
    """Every `bevt` command in scripts, manifests and compose.yaml, from the word after `bevt`."""
    for path in SCRIPTS:
        text = path.read_text()
        for found in re.findall(r"(?:sbatch .*?/(tokenize|train)\.sbatch|bevt (tokenize|train)) ([^#&'\n]*)", text):
            yield [found[0] or found[1], *shlex.split(found[2])]
    for path in MANIFESTS:
        for found in re.findall(r"\bargs: \[bevt, (.*)\]", path.read_text()):
            yield found.split(", ")
        for document in documents(path):
            if entrypoint := document["spec"].get("entrypoint"):
                yield shlex.split(entrypoint)[1:]
    compose = (REPO / "compose.yaml").read_text()
    yield yaml.safe_load(compose)["services"]["demo"]["command"]
    for found in re.findall(r"\bbevt (tokenize .*)", compose):
        yield shlex.split(found)


def test_commands_have_options_that_exist() -> None:
    flags = json.loads((REPO / "tests" / "golden" / "cli-flags.json").read_text())
    found = list(commands())
    assert {words[0] for words in found} == {"demo", "tokenize", "train"} and len(found) >= 9
    for words in found:
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        assert options <= flags[words[0]].keys(), words


@named(SCRIPTS)
def test_a_slurm_script_runs_again_and_continues(path: Path) -> None:
    text = path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
    assert all(option in text for option in ("#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:"))
    assert 'scontrol requeue "$SLURM_JOB_ID"' in text and "set -euo pipefail" in text
    assert text.index("#SBATCH") < text.index("set -e")  # Slurm reads options before the first command only


@named(MANIFESTS)
def test_pods_are_bounded_and_not_root(path: Path) -> None:
    specs = list(pod_specs(documents(path)))
    assert specs
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"]
            assert not container["image"].endswith("latest")
            assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}


@named(MANIFESTS)
def test_manifests_agree_with_the_schemas_of_kubernetes(path: Path) -> None:
    """Operators' kinds by their pod templates, since their schemas are not in a package."""
    validator = pytest.importorskip("kubernetes_validate", reason="in the extra `deploy`")
    version = validator.latest_version()
    for document in documents(path):
        if document["kind"] in OPERATORS:
            assert document["apiVersion"] == OPERATORS[document["kind"]]
            for spec in pod_specs(document):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "template"}, "spec": dict(spec)}
                validator.validate(pod, version, strict=True)
        else:
            validator.validate(document, version, strict=True)


def test_rays_version_in_the_manifest_is_that_of_the_image() -> None:
    (job,) = documents(REPO / "deploy" / "kuberay" / "tokenize.yaml")
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}\n" in (REPO / "constraints.txt").read_text()


def test_the_image_gets_every_file_of_the_package() -> None:
    allowed = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "cli.py"}
    assert allowed == needed | {"schemas", "bevt_core", "pipeline", "trainer"}


def test_no_image_runs_as_root_or_has_a_floating_base() -> None:
    text = (REPO / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+$", text, flags=re.MULTILINE)
    stages = {part.split()[0]: part for part in re.split(r"^FROM \S+ AS ", text, flags=re.MULTILINE)[1:]}
    for name in ("base", "cuda"):
        assert re.findall(r"^USER (\S+)", stages[name], flags=re.MULTILINE)[-1] == "1000"
    assert "USER" not in stages["cpu"] and "FROM base AS cpu" in text
