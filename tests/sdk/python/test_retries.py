"""Answers that are cut off on their way: the SDK's own retry gets the picture, and it is paid once."""

import base64
import hashlib
import io
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from PIL import Image

from conftest import QUICK_TIMES, Program, Upstream, free_port, gateway

# A queue that pushes, one that is polled, and two makers that answer at once.
MODELS = ["fal/flux-1.1-pro", "bfl/flux-1.1-pro", "gemini/nano-banana", "openai/gpt-image-1-mini"]
PATHS = {"fal": "/fal", "bfl": "/bfl/v1", "gemini": "/gemini/v1beta", "openai": "/openai/v1"}

# Where an answer breaks off: how many of its bytes pass, given those of its head and all of them.
CUTS = {
    "byte 0": lambda head, whole: 0,
    "after the headers": lambda head, whole: head,
    "mid-body": lambda head, whole: (head + whole) // 2,
    "before the last byte": lambda head, whole: whole - 1,
}

# With each: whether the proxy has read all of the answer by then, as one with large buffers has.
CASES = [("at once", False), *((cut, whole) for cut in CUTS for whole in (False, True))]


class Line:
    """A TCP proxy in front of the gateway that breaks the first answer off."""

    def __init__(self, gateway, cut, read_all):
        self.gateway = gateway
        self.cut = cut
        self.read_all = read_all
        self.requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client, socket.create_connection(self.gateway) as server:
            while self.pass_request(client, server):
                self.requests += 1
                cut, self.cut = self.cut, None
                if cut == "at once":
                    # The request must have left before the connection goes.
                    time.sleep(0.02)
                    return
                if not self.pass_answer(server, client, cut):
                    return

    def pass_request(self, client, server):
        message = read_head(client)
        if message:
            message += read_exactly(client, body_length(message))
            server.sendall(message)
        return bool(message)

    def pass_answer(self, server, client, cut):
        head = read_head(server)
        whole = len(head) + body_length(head)
        most = CUTS[cut](len(head), whole) if cut else whole
        rest = read_exactly(server, (whole if self.read_all else max(most, len(head))) - len(head))
        client.sendall((head + rest)[:most])
        return most == whole

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        self.listener.close()


def read_head(sock):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def body_length(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def read_exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(min(65536, count - len(data)))
        if not piece:
            raise ConnectionError("the gateway broke off")
        data += piece
    return bytes(data)


class Setup:
    """A gateway that asks simulated makers, and its books."""

    def __init__(self, folder):
        address = f"127.0.0.1:{free_port()}"
        self.folder = folder / "gateway"
        self.simulator = Program(
            folder, ["simulate", "--listen", address, *QUICK_TIMES], f"http://{address}/sim/stats"
        )
        config = ['auth.mode = "open"', f'fetch.allow = ["{address}"]']
        for provider, path in PATHS.items():
            config += [f"[providers.{provider}]", 'api_key = "k"']
            config += [f'base_url = "http://{address}{path}"']
        self.program, self.url = gateway(self.folder, config)
        self.upstream = Upstream(None, address)

    def line(self, cut, read_all):
        return Line(("127.0.0.1", int(self.url.split(":")[2].split("/")[0])), cut, read_all)

    def books(self):
        """The jobs with their states and what was charged, once every job is settled."""
        path = self.folder / "data/mediagate.db"
        for _ in range(100):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                jobs = database.execute("SELECT id, state, settled FROM job").fetchall()
                charges = database.execute(
                    "SELECT job FROM transfer WHERE kind = 'capture' AND debit LIKE 'credit:%'"
                ).fetchall()
            if all(settled for _, _, settled in jobs):
                return {job: state for job, state, _ in jobs}, [job for (job,) in charges]
            time.sleep(0.05)
        raise AssertionError(f"not settled: {jobs}")

    def stop(self):
        self.program.stop()
        self.simulator.stop()


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    setup = Setup(tmp_path_factory.mktemp("retries"))
    yield setup
    setup.stop()


class Bought:
    """What the block within bought: submits at the makers, jobs and charges in the books."""

    def __init__(self, setup):
        self.setup = setup

    def __enter__(self):
        self.before = self.setup.upstream.submits(), *self.setup.books()
        return self

    def __exit__(self, *failed):
        submits, jobs, charges = self.setup.upstream.submits(), *self.setup.books()
        self.submits = submits - self.before[0]
        self.jobs = {job: jobs[job] for job in jobs if job not in self.before[1]}
        self.charges = charges[len(self.before[2]) :]


def client(url, **options):
    """An OpenAI client with connections of its own."""
    return openai.OpenAI(base_url=url, api_key="unused", timeout=50, **options)


def ask(model, prompt):
    # Small where the model allows it: what matters is how often it is drawn.
    return {"model": model, "prompt": prompt, "size": "512x512" if "flux" in model else "auto"}


def drawn(answer):
    """The job of an answer, whose picture is whole and the one that the answer tells of."""
    data = base64.b64decode(answer.data[0].b64_json)
    image = Image.open(io.BytesIO(data))
    image.load()
    details = answer.model_extra["mediagate"]
    output = details["outputs"][0]
    assert image.size == (output["width"], output["height"])
    assert len(data) == output["bytes"]
    assert output["sha256"] in (None, hashlib.sha256(data).hexdigest())
    return details["job_id"]


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_that_is_cut_off_is_asked_for_again_and_paid_once(setup, model):
    def check(case):
        with setup.line(*case) as line:
            prompt = f"a lighthouse, {case}"
            job = drawn(client(line.url).images.generate(**ask(model, prompt)))
            assert line.requests == 2, f"{case}: the SDK asks again"
            return job

    with Bought(setup) as bought, ThreadPoolExecutor() as side_by_side:
        jobs = list(side_by_side.map(check, CASES))
    assert bought.submits == len(CASES)
    assert bought.jobs == dict.fromkeys(jobs, "succeeded")
    assert sorted(bought.charges) == sorted(set(jobs))


def test_two_equal_calls_are_two_jobs(setup):
    def check(model):
        wanted = ask(model, "a lighthouse, twice")
        return [drawn(client(setup.url).images.generate(**wanted)) for _ in range(2)]

    with Bought(setup) as bought, ThreadPoolExecutor() as side_by_side:
        jobs = sum(side_by_side.map(check, MODELS), [])
    assert bought.submits == len(set(jobs)) == 2 * len(MODELS)
    assert sorted(bought.charges) == sorted(jobs)


def test_a_program_may_repeat_under_a_key_of_its_own(setup):
    def check(case):
        with setup.line(*case) as line:
            program = client(line.url, max_retries=0)
            images = program.images.with_raw_response
            key = {"extra_headers": {"Idempotency-Key": f"order-{CASES.index(case)}"}}
            wanted = {**ask("fal/flux-1.1-pro", f"a lighthouse, {case}, by key"), **key}
            with pytest.raises(openai.APIConnectionError):
                images.generate(**wanted)
            again = [images.generate(**wanted) for _ in range(2)]
            assert [answer.headers["idempotent-replayed"] for answer in again] == ["true"] * 2
            with pytest.raises(openai.UnprocessableEntityError) as caught:
                images.generate(**{**wanted, "prompt": "another"})
            assert caught.value.code == "idempotency_mismatch"
            jobs = {drawn(answer.parse()) for answer in again}
            assert len(jobs) == 1
            return jobs.pop()

    with Bought(setup) as bought, ThreadPoolExecutor() as side_by_side:
        jobs = list(side_by_side.map(check, CASES))
    assert bought.submits == len(set(jobs)) == len(CASES)
    assert sorted(bought.charges) == sorted(jobs)
