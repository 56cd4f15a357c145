"""Files for containers and service managers agree with the commands that they start."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mistralrs_onnx.server.lifecycle import ServerOptions
from mistralrs_onnx.tools.reference.route_notes import ROUTES
from mistralrs_onnx.tools.serve import main as serve

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
NO_OPTIONS = {"MISTRALRS_CACHE", "MISTRALRS_DEBUG"}
DOCKERFILE, DOCKERFILE_CUDA = ((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "Dockerfile.cuda"))
DOCKERFILES = pytest.mark.parametrize("dockerfile", [DOCKERFILE, DOCKERFILE_CUDA], ids=["cpu", "cuda"])
COMPOSE, COMPOSE_CUDA, PATCH_CUDA = (
    yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    for name in ("compose.yaml", "compose.cuda.yaml", "kubernetes.cuda.yaml")
)
DEPLOYMENT, SERVICE = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
UNIT = (DEPLOY / "mistralrs.service").read_text(encoding="utf-8")


def variables() -> set[str]:
    return {f"MISTRALRS_{(param.name or '').upper()}" for param in serve.params} | NO_OPTIONS | option_variables()


def option_variables() -> set[str]:
    """As options are spelled, which is how people guess them."""
    names = [name for param in serve.params for name in param.opts if name.startswith("--")]
    return {f"MISTRALRS_{name.removeprefix('--').replace('-', '_').upper()}" for name in names}


TEXTS = {"Dockerfile": DOCKERFILE, "Dockerfile.cuda": DOCKERFILE_CUDA, "unit": UNIT} | {
    path.name: path.read_text() for path in DEPLOY.glob("*.yaml")
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_variables_are_read_by_somebody(text: str) -> None:
    told = set(re.findall(r"MISTRALRS_[A-Z_]*[A-Z]", text))
    assert told <= variables()


@DOCKERFILES
def test_commands_are_commands(dockerfile: str) -> None:
    [default] = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    container = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
    for arguments in (json.loads(default), container["args"], COMPOSE["services"]["server"]["command"]):
        assert arguments[0] in serve.commands


def test_the_unit_starts_the_server_with_its_file() -> None:
    [line] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert Path(program).name == "mistralrs-server"
    arguments[arguments.index("--config") + 1] = str(DEPLOY / "mistralrs.toml")
    found = CliRunner().invoke(serve, ["--print-config", *arguments])
    assert found.exit_code == 0, found.output
    assert re.search(r"kv.mem.*4GiB|kv.mem.*4294967296", found.output)


def test_answers_end_before_the_container_does() -> None:
    drain = ServerOptions().drain_timeout
    assert DEPLOYMENT["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain
    assert float(COMPOSE["services"]["server"]["stop_grace_period"].removesuffix("s")) > drain
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0]) > drain


@DOCKERFILES
def test_ports_agree(dockerfile: str) -> None:
    container = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
    [port] = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
    assert f"MISTRALRS_PORT={port}" in dockerfile
    assert container["ports"][0]["containerPort"] == int(port)
    assert SERVICE["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert COMPOSE["services"]["server"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert DEPLOYMENT["spec"]["template"]["spec"]["enableServiceLinks"] is False, "it would set MISTRALRS_PORT"
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]


def test_collectors_of_metrics_find_them() -> None:
    pod = DEPLOYMENT["spec"]["template"]
    found = pod["metadata"]["annotations"]
    assert found["prometheus.io/scrape"] == "true"
    assert found["prometheus.io/port"] == str(pod["spec"]["containers"][0]["ports"][0]["containerPort"])
    assert f"GET {found['prometheus.io/path']}" in ROUTES


def test_only_the_stage_that_builds_has_a_compiler() -> None:
    before, build, final = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    assert "g++" in build.split("pip wheel")[0]
    assert "g++" not in before + final
    bases = [stage.split()[0] for stage in (build, final)]
    assert bases[0] == bases[1], "kernels are linked with the C++ library of the first and run with that of the second"


@DOCKERFILES
def test_nothing_runs_as_root(dockerfile: str) -> None:
    assert "USER server" in dockerfile
    user = re.findall(r"useradd .*--uid (\d+)", dockerfile)[0]
    assert DEPLOYMENT["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)
    assert "DynamicUser=yes" in UNIT


class Ready(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def settings(dockerfile: str) -> dict[str, str]:
    """Variables that are set in the image."""
    [block] = re.findall(r"^ENV ((?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)
    return dict(each.split("=", 1) for each in block.replace("\\\n", " ").split())


def test_the_images_differ_in_the_device() -> None:
    """Whoever mends one mends the other."""
    cpu, cuda = settings(DOCKERFILE), settings(DOCKERFILE_CUDA)
    card = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    card["CUDA_CACHE_PATH"] = f"{cpu['MISTRALRS_CACHE']}/nvidia"  # else in the home folder, which may be read only
    assert cuda == cpu | card | {"MISTRALRS_DEVICE": "cuda"}
    found = CliRunner().invoke(serve, ["--print-config", "demo"], env={"MISTRALRS_DEVICE": cuda["MISTRALRS_DEVICE"]})
    assert re.search(r'device = "cuda(:0)?"', found.output), found.output
    instructions = (
        "FROM",
        "RUN",
        "USER",
        "VOLUME",
        "HEALTHCHECK",
        "    CMD",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
        "    &&",
    )
    told = [
        [line.replace("[cuda]", "[cpu]") for line in stage.splitlines() if line.startswith(instructions)]
        for stage in (text.rpartition("\nFROM ")[2] for text in (DOCKERFILE, DOCKERFILE_CUDA))  # that runs
    ]
    assert told[0] == told[1]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extras["cuda"] == ["onnxruntime-gpu[cuda,cudnn]>=1.31"]


def test_a_card_is_asked_for() -> None:
    """Files that join those for the CPU name the same service and the same container."""
    server = COMPOSE_CUDA["services"]["server"]
    assert COMPOSE_CUDA["services"].keys() == COMPOSE["services"].keys()
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    [container], [plain] = (each["spec"]["template"]["spec"]["containers"] for each in (PATCH_CUDA, DEPLOYMENT))
    assert container["name"] == plain["name"]
    assert container["image"] == server["image"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}


@DOCKERFILES
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_follows_ready(status: int, code: int, dockerfile: str) -> None:
    [line] = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", dockerfile, re.MULTILINE)
    program, *arguments = json.loads(line)
    assert program == "python"
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (Ready,), {"status": status}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = {**os.environ, "MISTRALRS_PORT": str(server.server_port)}
        found = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=60)
    finally:
        server.shutdown()
    assert found.returncode == code


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mistralrs.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT))
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert "mistralrs.service" not in found.stderr, found.stderr
