"""What examples/fleet tells the engines that run a fleet: it is what they read, and its times add up."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import hcl2
import pytest
import yaml

from prefork.config.settings import Settings
from tests.support.documents import ROOT, blocks, try_flags, verify

FLEET: Final = ROOT / "examples" / "fleet"
MANIFESTS: Final = FLEET / "manifests"
MARGIN: Final = 5.0
"""Seconds that whoever kills a server allows it at least beyond what it may take by its own settings."""


def told() -> dict[str, Any]:
    return tomllib.loads((FLEET / "prefork.toml").read_text())


def longest_stop(command: Sequence[str], file: dict[str, Any] | None = None) -> float:
    """Seconds that a stop may take by what a server is told: in a file, and by flags, which beat it."""
    given = dict(file or {})
    for flag, value in itertools.pairwise(command):
        if flag in {"--drain-delay", "--graceful-timeout"}:
            given[flag[2:].replace("-", "_")] = float(value)
    settings = Settings()
    delay: float = given.get("drain_delay", settings.drain_delay)
    grace: float = given.get("graceful_timeout", settings.graceful_timeout)
    return delay + grace


def deployments() -> list[tuple[str, dict[str, Any]]]:
    """Every deployment of Kubernetes that we show, with where it is."""
    path = MANIFESTS / "kubernetes.yaml"
    texts = [(path.name, path.read_text())]
    texts += [
        (block.where, block.text)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for block in blocks(page)
        if block.language == "yaml"
    ]
    found = [(where, document) for where, text in texts for document in yaml.safe_load_all(text)]
    return [(where, document) for where, document in found if document.get("kind") == "Deployment"]


@pytest.mark.parametrize(("where", "deployment"), deployments(), ids=lambda value: value if type(value) is str else "")
def test_a_deployment_adds_up(where: str, deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    (container,) = pod["containers"]
    command = container["command"]
    try_flags(command)
    assert longest_stop(command) + MARGIN <= pod["terminationGracePeriodSeconds"]
    boot = float(
        command[command.index("--boot-timeout") + 1] if "--boot-timeout" in command else Settings().boot_timeout
    )
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= boot
    ports = {port.get("name", ""): port["containerPort"] for port in container["ports"]}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(name, {})
        try_flags(probe.get("exec", {}).get("command", []))
        if "httpGet" in probe:
            where_asked = ports[probe["httpGet"]["port"]]
            assert command[command.index("--health-bind") + 1] == f":{where_asked}"
    ready = container["readinessProbe"]
    noticed = ready["periodSeconds"] * ready.get("failureThreshold", 3)
    delay = float(command[command.index("--drain-delay") + 1])
    assert noticed < delay or "exec" in ready, "the probe finds the end of the server, not the order to stop"
    assert "preStop" not in container.get("lifecycle", {})  # drain-delay is that


def test_what_stands_beside_the_deployment_means_it() -> None:
    documents = list(yaml.safe_load_all((MANIFESTS / "kubernetes.yaml").read_text()))
    deployment, service, budget = documents
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]


def test_kubernetes_reads_it() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (pip, 120 MB)")
    version = validate.latest_version()
    for document in yaml.safe_load_all((MANIFESTS / "kubernetes.yaml").read_text()):
        validate.validate(document, version, strict=True)


def nomad() -> str:
    return (MANIFESTS / "shop.nomad.hcl").read_text()


def test_a_job_of_nomad_adds_up() -> None:
    text = nomad()
    listed = re.search(r"^ +args = (\[.*?\n +\])", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    arguments = json.loads(re.sub(r",\s*\]$", "]", listed[1]))
    try_flags(["prefork", *(re.sub(r"\$\{NOMAD_PORT_\w+\}", "8000", word) for word in arguments)])
    timeout = re.search(r'^ +kill_timeout = "(\d+)s"$', text, re.MULTILINE)
    assert timeout is not None
    assert longest_stop(arguments) + MARGIN <= float(timeout[1])
    assert re.search(r'^ +kill_signal = "SIGTERM"$', text, re.MULTILINE)
    ports = set(re.findall(r'^ +port "(\w+)"', text, re.MULTILINE))
    assert (
        set(re.findall(r"NOMAD_PORT_(\w+)", text)) | set(re.findall(r'port +=? +"(\w+)"$', text, re.MULTILINE)) == ports
    )


def test_nomad_reads_it(tmp_path: Path) -> None:
    found = shutil.which("nomad")
    if found is None:
        pytest.skip("nomad(1) is not installed")
    done = subprocess.run(
        [found, "job", "run", "-output", str(MANIFESTS / "shop.nomad.hcl")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # which parses it here; to validate it a server is asked
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["Job"]["ID"] == "shop"


def test_its_language_is_nomads() -> None:
    assert "job" in hcl2.loads(nomad())


def test_a_unit_of_systemd_adds_up() -> None:
    path = MANIFESTS / "shop.service"
    settings = dict(re.findall(r"^(\w+)=((?:.*\\\n)*.*)$", path.read_text(), re.MULTILINE))
    command = shlex.split(settings["ExecStart"].replace("\\\n", ""))
    file = command.index("--config")
    assert command[file + 1] == "/srv/shop/prefork.toml"
    command[file + 1] = str(FLEET / "prefork.toml")
    try_flags(command)
    assert longest_stop(command, told()) + MARGIN <= float(settings["TimeoutStopSec"])
    verify(path)


def test_haproxy_has_a_server_out_before_it_closes() -> None:
    text = (FLEET / "haproxy.cfg").read_text()
    found = re.search(r"inter (\d+)ms fall (\d+)", text)
    agent = re.search(r"agent-inter (\d+)ms", text)
    assert found is not None
    assert agent is not None
    # A check that is under way when the order comes may still be answered by yes.
    assert int(found[1]) * (int(found[2]) + 1) / 1000 < told()["drain_delay"]
    assert 2 * int(agent[1]) / 1000 < told()["drain_delay"]
    unit = (MANIFESTS / "shop.service").read_text()
    ports = re.search(r"check port (\d+).*agent-port (\d+)", text, re.DOTALL)
    assert ports is not None
    assert f"--health-bind 0.0.0.0:{ports[1]} --agent-bind 0.0.0.0:{ports[2]}" in unit


def test_haproxy_reads_it(tmp_path: Path) -> None:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if found is None:
        pytest.skip("haproxy is not installed")
    done = subprocess.run(
        [found, "-c", "-f", str(FLEET / "haproxy.cfg")],
        env={**os.environ, "FLEET_RUN": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_clients_keep_a_connection_for_less_time_than_the_balancer_does() -> None:
    """Else a request meets the close: in bursts they lost what no server had lost."""
    balancer = (FLEET / "haproxy.cfg").read_text()
    (kept,) = re.findall(r"^ *timeout client (\d+)s$", balancer, re.MULTILINE)
    assert 2 * runpy.run_path(str(FLEET / "clients.py"))["KEPT"] <= float(kept)
