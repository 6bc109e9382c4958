"""Starts what the client tests talk to: `hearth serve ember` and `hearth up` with ember, each once for all tests.

HEARTH_BIN_DIR says where the `hearth` program is (else it is looked for in PATH). With HEARTH_BASE_URL (and
HEARTH_API_KEY) the tests run against an endpoint that is up already, and nothing is started.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import openai
import pytest

STARTING = 60.0


def program() -> str:
    folder = os.environ.get("HEARTH_BIN_DIR")
    found = str(Path(folder) / "hearth") if folder else shutil.which("hearth")
    assert found and Path(found).exists(), "set HEARTH_BIN_DIR to the folder of the hearth program"
    return found


class Server:
    """A running endpoint. `kind` is `serve`, `up` or `given`."""

    def __init__(self, kind: str, url: str, process: subprocess.Popen | None = None, key: str = "none"):
        self.kind, self.url, self.process, self.key = kind, url, process, key

    def client(self, **options) -> openai.OpenAI:
        options = {"max_retries": 0, "timeout": 120.0} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **options)

    def http(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120.0)

    def metric(self, name: str) -> float:
        with self.http() as http:
            for line in http.get("/metrics").text.splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")

    def wait_for_metric(self, name: str, wanted, seconds: float = 20.0) -> float:
        end = time.monotonic() + seconds
        while not wanted(value := self.metric(name)):
            assert time.monotonic() < end, f"{name} is still {value}"
            time.sleep(0.05)
        return value

    def stop(self) -> int | None:
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def start(kind: str, *arguments: str, home: Path, key: str = "none", ready: bool = True) -> Server:
    environment = os.environ | {
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_RUNTIME_DIR": str(home),
        "HEARTH_LOG": "warn",
    }
    process = subprocess.Popen(
        [program(), "--json", kind, *arguments], stdout=subprocess.PIPE, env=environment, text=True
    )
    line = json.loads(process.stdout.readline())
    server = Server(kind, line.get("url") or line["address"], process, key)
    end = time.monotonic() + STARTING
    with server.http() as http:
        while ready:
            answer = http.get("/v1/models")
            if answer.status_code == 200:
                break
            assert process.poll() is None and time.monotonic() < end, answer.text
            time.sleep(0.05)
    return server


@pytest.fixture(scope="session")
def home():
    # A socket's path may have 107 bytes only, so it does not lie in pytest's deep folders.
    with tempfile.TemporaryDirectory(prefix="hearth-") as folder:
        os.chmod(folder, 0o700)
        yield Path(folder)


def kinds() -> list[str]:
    return ["given"] if "HEARTH_BASE_URL" in os.environ else ["serve", "up"]


@pytest.fixture(scope="session", params=kinds())
def server(request, home):
    if request.param == "given":
        url = os.environ["HEARTH_BASE_URL"].rstrip("/").removesuffix("/v1")
        yield Server("given", url, key=os.environ.get("HEARTH_API_KEY", "none"))
        return
    arguments = {
        "serve": ["ember", "--port", "0"],
        "up": ["--model", "ember", "--port", "0", "--start"],
    }[request.param]
    running = start(request.param, *arguments, home=home)
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def http(server):
    with server.http() as http:
        yield http


@pytest.fixture(scope="session")
def model(server) -> str:
    with server.client() as client:
        return client.models.list().data[0].id
