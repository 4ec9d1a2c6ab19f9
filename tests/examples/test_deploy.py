"""The files for systemd, containers and Kubernetes: valid, and saying what the commands and promises do."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from emq_compat.cli.main import cli
from tests.processes import Procs, unused_port

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
#: As long as what runs may run on after TERM, in seconds; and until it is killed.
SOFT_S, GRACE_S = 300, 330
LIVE = ["health", "--live", "--http", "127.0.0.1:47280"]
READY = ["health", "--ready", "--http", "127.0.0.1:47280"]


def compose() -> dict[str, Any]:
    """What docker/compose.yaml says, with defaults for its variables."""
    text = (DEPLOY / "docker/compose.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return loaded


def manifests() -> list[dict[str, Any]]:
    """Every object of Kubernetes'."""
    files = [file for file in sorted(DEPLOY.glob("kubernetes/*.yaml")) if file.name != "kustomization.yaml"]
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """What runs on Kubernetes, by name: the spec of a pod."""
    found = [manifest for manifest in manifests() if "template" in manifest.get("spec", ())]
    return {manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"] for manifest in found}


def unit(file: Path) -> dict[str, list[str]]:
    """The values of a unit's keys, in their order."""
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE):
        values.setdefault(key, []).append(value)
    return values


def command_of(file: Path) -> list[str]:
    """What a unit starts, without the path of emq-compat."""
    (line,) = unit(file)["ExecStart"]
    line = re.sub(r"\$[A-Z]\w*", "", line.replace("${APP}", "myproj").replace("${STATE_DIRECTORY}", "/tmp"))
    return shlex.split(line.replace("%i", "a").replace("%H", "host"))[1:]


def commands() -> dict[str, list[str]]:
    """Every call of emq-compat in these files, by where it stands."""
    found = {file.name: command_of(file) for file in UNITS}
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
    (healthcheck,) = re.findall(r"^ +CMD (\[.*\])$", dockerfile, re.MULTILINE)
    found["HEALTHCHECK"] = json.loads(healthcheck)[1:]
    for name, service in compose()["services"].items():
        if name != "keys":
            found[f"compose {name}"] = service["command"]
        if test := service["healthcheck"].get("test"):
            found[f"compose {name} healthcheck"] = test[2:]
    for name, pod in pods().items():
        found[f"kubernetes {name}"] = pod["containers"][0]["args"]
    return found


@pytest.mark.unit
@pytest.mark.parametrize("where", commands())
def test_every_command_is_one(where: str) -> None:
    """The options of each command are there."""
    # A folder of keys must be there.
    name, *options = (re.sub(r"^--keys=.*", "--keys=/", option) for option in commands()[where])
    context = click.Context(cli, info_name="emq-compat")
    command = cli.get_command(context, name)
    assert command is not None
    command.make_context(name, options, parent=context)


@pytest.mark.unit
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_units_are_verified(tmp_path: Path) -> None:
    """systemd finds nothing to say of them."""
    for file in UNITS:
        text = re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", file.read_text())
        (tmp_path / file.name).write_text(text)
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / file.name) for file in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    # Of a machine without systemd's own units it says that those are missing.
    told = [line for line in run.stderr.splitlines() if "emq-compat" in line]
    assert [] == told


@pytest.mark.unit
@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']} {m['metadata']['name']}")
def test_manifests_are_valid(manifest: dict[str, Any]) -> None:
    """Each has the fields of its kind, and no others."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.unit
def test_compose_is_valid() -> None:
    """compose.yaml has the fields of the compose specification, and no others."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(DEPLOY / "docker/compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == run.returncode, run.stdout


@pytest.mark.unit
def test_grace_is_longer_than_a_soft_shutdown() -> None:
    """Everywhere TERM is a soft shutdown of as long, and whoever kills waits longer."""
    worker = unit(DEPLOY / "systemd/emq-compat-worker@.service")
    containers = compose()["services"]["worker"]
    pod = pods()["emq-worker"]

    for where in ("emq-compat-worker@.service", "compose worker", "kubernetes emq-worker"):
        assert f"worker_soft_shutdown_timeout={SOFT_S}" in commands()[where], where
    assert "REMAP_SIGTERM=SIGQUIT" in worker["Environment"]
    assert "SIGQUIT" == containers["environment"]["REMAP_SIGTERM"]
    assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in pod["containers"][0]["env"]
    assert ([str(GRACE_S)], f"{GRACE_S}s", GRACE_S) == (
        worker["TimeoutStopSec"],
        containers["stop_grace_period"],
        pod["terminationGracePeriodSeconds"],
    )
    text = (DEPLOY / "README.md").read_text()
    assert f"what runs has {SOFT_S} s" in text
    assert f"| {GRACE_S} s |" in text


@pytest.mark.unit
def test_probes_ask_what_they_are_for() -> None:
    """Only what is not alive is killed; what is not ready gets no new connections."""
    for name in ("emq-broker", "emq-worker", "emq-beat"):
        (container,) = pods()[name]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert f"--http=0.0.0.0:{ports['http']}" in container["args"]
        probes = {kind: probe["httpGet"] for kind, probe in container.items() if kind.endswith("Probe")}
        assert {
            "startupProbe": {"path": "/live", "port": "http"},
            "livenessProbe": {"path": "/live", "port": "http"},
            "readinessProbe": {"path": "/ready", "port": "http"},
        } == probes
    assert LIVE == commands()["HEALTHCHECK"]
    for name in ("broker", "worker", "beat"):
        assert READY == commands()[f"compose {name} healthcheck"]


@pytest.mark.unit
def test_kustomize_builds_it() -> None:
    """Every manifest is in the kustomization, and the image's name is replaced."""
    (kustomization,) = yaml.safe_load_all((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    files = {file.name for file in DEPLOY.glob("kubernetes/*.yaml")} - {"kustomization.yaml"}
    assert files == set(kustomization["resources"])
    assert {image["name"] for image in kustomization["images"]} == {
        container["image"] for pod in pods().values() for container in pod["containers"]
    }
    if shutil.which("kubectl") is not None:
        run = subprocess.run(
            ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=False
        )
        assert 0 == run.returncode, run.stderr
        built = list(yaml.safe_load_all(run.stdout))
        assert len(manifests()) == len(built)


PROJECT = """
from emq_compat.celery_shim import Celery

app = Celery("myproj")


@app.task
def add(x, y):
    return x + y
"""


@pytest.mark.integration
def test_compose_runs(procs: Procs, tmp_path: Path) -> None:
    """The keys that compose makes let its broker, a worker and the web application in, by its commands."""
    (tmp_path / "myproj.py").write_text(PROJECT)
    ports = {name: unused_port() for name in ("47291", "47290", "47280")}
    services = compose()["services"]
    environ = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def here(text: str) -> str:
        """Say it of this machine, where containers have one loopback and the test's folder."""
        text = text.replace("/keys", str(tmp_path / "keys")).replace("/data", str(tmp_path / "data"))
        for port, free in ports.items():
            text = text.replace(f":{port}", f":{free}")
        return text.replace("0.0.0.0", "127.0.0.1")

    (tmp_path / "keys").mkdir()
    (script,) = services["keys"]["command"]
    made = procs.start(*services["keys"]["entrypoint"], here(script), env=environ)
    assert 0 == made.wait(60), made.tail()
    again = procs.start(*services["keys"]["entrypoint"], here(script), env=environ)
    assert 0 == again.wait(60), again.tail()

    emq = Path(sys.executable).parent / "emq-compat"
    procs.start(emq, *map(here, services["broker"]["command"]), "--admin", f"tcp://127.0.0.1:{unused_port()}")
    address = f"emq://127.0.0.1:{ports['47291']}?worker_port={ports['47290']}"
    for_worker = {"EMQ_BROKER_ADDR": address, "EMQ_KEYS": here("/keys/worker"), "REMAP_SIGTERM": "SIGQUIT"}
    ports["47280"] = unused_port()
    worker = procs.start(emq, *map(here, services["worker"]["command"]), env=for_worker, cwd=tmp_path)
    web = procs.start(
        *(emq, "call", "-A", "myproj", "myproj.add", "-a", "[2, 3]", "--wait", "30"),
        env={"EMQ_BROKER_ADDR": address, "EMQ_KEYS": here("/keys/web")},
        cwd=tmp_path,
    )
    assert 0 == web.wait(60), web.tail() + worker.tail()
    assert "5" in web.output().split()
    assert 0 == worker.stop(), worker.tail()
