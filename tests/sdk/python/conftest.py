"""The real `mediagate` binary, started on a free port and stopped again."""

import hashlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("MEDIAGATE_BIN", ROOT / "target/debug/mediagate"))
KEY = "mg_test_5c3a9d"
# A simulated queue without the wait.
QUICK = ["queue_s = 0.02", "run_s = 0.05", "sigma = 0.0"]
QUICK_TIMES = ["--queue-s", "0.02", "--run-s", "0.05", "--sigma", "0"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


class Program:
    """A `mediagate` process that answers at `ready`."""

    def __init__(self, folder, arguments, ready, environment=None):
        self.log = folder / "log"
        # Nothing of the machine's own keys or configuration may reach it.
        clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [BINARY, *arguments], cwd=folder, env=clean, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not answers(ready):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{ready} never answered:\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def gateway(folder, config):
    """Starts a gateway with a configuration; returns it and its base URL."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mediagate.toml").write_text("\n".join(config))
    program = Program(
        folder, ["serve", "--listen", f"127.0.0.1:{port}"], f"http://127.0.0.1:{port}/readyz"
    )
    return program, f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """An OpenAI client of a gateway whose providers are all simulated."""
    config = ['auth.mode = "open"', "[simulator]", "enabled = true", *QUICK]
    program, url = gateway(tmp_path_factory.mktemp("open"), config)
    yield openai.OpenAI(base_url=url, api_key="unused", timeout=60)
    program.stop()


@pytest.fixture(scope="session")
def keyed(tmp_path_factory):
    """The base URL of a gateway that asks for `KEY`, which may call `flux-*` alone."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    config = [
        f'auth.static_keys = [{{ name = "test", sha256 = "{digest}", models = ["flux-*"] }}]',
        "[simulator]",
        "enabled = true",
        *QUICK,
    ]
    program, url = gateway(tmp_path_factory.mktemp("keyed"), config)
    yield url
    program.stop()


class Upstream:
    """The simulator as a program of its own, with a gateway in front of it."""

    def __init__(self, client, address):
        self.client = client
        self.address = address

    def submits(self):
        """How many paid requests the simulated providers were sent."""
        with urllib.request.urlopen(f"http://{self.address}/sim/stats", timeout=5) as reply:
            vendors = json.load(reply)["vendors"]
        return sum(counts["submit"] for counts in vendors.values())


@pytest.fixture(scope="session")
def upstream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    address = f"127.0.0.1:{free_port()}"
    simulator = Program(
        folder, ["simulate", "--listen", address, *QUICK_TIMES], f"http://{address}/sim/stats"
    )
    config = ['auth.mode = "open"', f'fetch.allow = ["{address}"]']
    for provider, path in [("openai", "/openai/v1"), ("fal", "/fal"), ("replicate", "/replicate/v1")]:
        config += [f"[providers.{provider}]", 'api_key = "k"', f'base_url = "http://{address}{path}"']
    program, url = gateway(folder / "gateway", config)
    yield Upstream(openai.OpenAI(base_url=url, api_key="unused", timeout=60), address)
    program.stop()
    simulator.stop()
