"""`hearth serve` itself: what it refuses to start with, keys, a full queue, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest

from conftest import kinds, program, start

pytestmark = pytest.mark.skipif(kinds() == ["given"], reason="an endpoint was given, nothing is started")

EMBER = Path(__file__).parents[2] / "src-tauri/assets/ember/model"
MESSAGES = [{"role": "user", "content": "Hi"}]


def failing(*arguments):
    command = [program(), "--json", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert b"panicked" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def fault(stdout):
    return json.loads(stdout.splitlines()[-1])["error"]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(EMBER, tmp_path / "model"))


def test_a_folder_without_a_tokenizer_ends_with_code_3_and_says_so(folder):
    (folder / "tokenizer.json").unlink()
    code, stdout, stderr = failing(str(folder), "--port", "0")
    assert code == 3
    assert "tokenizer.json" in fault(stdout)["message"] and fault(stdout)["next_step"]
    assert "tokenizer.json" in stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_or_with_half_of_one_ends_with_code_3(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    code, stdout, _ = failing(str(folder), "--port", "0")
    assert code == 3 and fault(stdout)["code"]
    (folder / name).unlink()
    code, stdout, _ = failing(str(folder), "--port", "0")
    assert code == 3 and fault(stdout)["message"]


def test_models_that_are_nowhere_end_with_code_3(tmp_path):
    for name in (str(tmp_path / "nothing"), "no/such-model", "???", ""):
        code, stdout, _ = failing(name, "--port", "0")
        assert code == 3, name
        assert fault(stdout)["next_step"]


def test_a_path_that_is_no_text_is_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/mod\xff\xfeel"
    os.mkdir(path)
    code, stdout, _ = failing(path, "--port", "0")
    assert code == 3 and "UTF-8" in fault(stdout)["message"]


def test_options_that_cannot_be_honoured_are_refused(tmp_path):
    assert failing("ember", "--port", "0", "--context", "10000000")[0] == 3
    assert failing("ember", "--port", "0", "--device", "cuda")[0] == 3
    assert failing("ember", "--port", "0", "--kv", "fp3")[0] == 2
    assert failing("ember", "--port", "0", "--max-requests", "0")[0] == 2
    code, _, stderr = failing("ember", "--host", "0.0.0.0", "--port", "0")
    assert code == 2 and "--api-key-file" in stderr
    code, _, stderr = failing("ember", "--uds", str(tmp_path / ("x" * 200)))
    assert code == 2 and stderr


def test_a_port_in_use_is_refused(home):
    running = start("serve", "ember", "--port", "0", home=home, ready=False)
    try:
        code, _, stderr = failing("ember", "--port", running.url.rsplit(":", 1)[1])
        assert code == 2 and "cannot listen" in stderr
    finally:
        running.stop()


def test_a_key_is_needed_where_keys_are_set(home, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# for the tests\nfirst-key\nsecond-key\n")
    running = start("serve", "ember", "--port", "0", "--api-key-file", str(keys), home=home, key="second-key")
    try:
        assert running.client().models.list().data
        for key in ("wrong", "first-ke", "first-key2"):
            with pytest.raises(openai.AuthenticationError) as error:
                openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0).models.list()
            assert error.value.code == "invalid_api_key"
        assert httpx.get(f"{running.url}/v1/models", headers={"x-api-key": "first-key"}).status_code == 200
        assert httpx.get(f"{running.url}/status").status_code == 401
        assert httpx.get(f"{running.url}/health").status_code == 200
    finally:
        running.stop()


def test_a_full_queue_answers_429_with_the_time_to_come_back(home):
    running = start(
        "serve", "ember", "--port", "0", "--max-requests", "1", "--max-waiting", "1", home=home
    )
    client = running.client()
    options = {"model": "ember", "messages": MESSAGES, "max_tokens": 20_000, "stream": True}
    try:
        held = [client.chat.completions.create(**options, extra_body={"ignore_eos": True})]
        next(iter(held[0]))
        held.append(client.chat.completions.create(**options))
        running.wait_for_metric("hearth_requests_waiting", lambda waiting: waiting == 1)
        with pytest.raises(openai.RateLimitError) as error:
            client.chat.completions.create(**options)
        assert error.value.code == "rate_limit_exceeded"
        assert int(error.value.response.headers["retry-after"]) >= 1
        held[0].close()
        assert next(iter(held[1])).choices, "the one that waited is served now"
        held[1].close()
    finally:
        running.stop()


def test_the_first_signal_lets_a_running_answer_finish(home):
    running = start("serve", "ember", "--port", "0", home=home)
    client = running.client()
    stream = client.chat.completions.create(
        model="ember", messages=MESSAGES, max_tokens=300, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    running.process.send_signal(signal.SIGTERM)
    rest = list(chunks)
    assert rest[-1].choices[0].finish_reason == "length"
    assert running.process.wait(20) == 0


def test_the_status_is_readable_from_the_first_moment_and_the_socket_is_private(home):
    path = home / "engine.sock"
    process = subprocess.Popen(
        [program(), "--json", "serve", "--uds", str(path), "--", "ember"], stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://engine") as http:
            end = time.monotonic() + 30
            while (status := http.get("/status").json())["phase"]["kind"] != "ready":
                assert status["phase"]["kind"] == "loading" and status["phase"]["stage"]
                refused = http.get("/v1/models")
                assert refused.status_code in (200, 503)
                assert time.monotonic() < end
                time.sleep(0.01)
            assert status["model"]["demonstration"] is True and status["memory"]["weights"] > 0
            body = {"model": "ember", "messages": MESSAGES, "max_tokens": 2}
            headers = {"x-request-id": "mine"}
            assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
            finished = http.get("/status").json()["finished"]
            assert [r["id"] for r in finished] == ["mine"] and finished[0]["output_tokens"] == 2
            assert http.get(f"/status?after={finished[0]['seq']}").json()["finished"] == []
            assert http.get("/status?after=x").status_code == 400
            assert http.post("/control/drain").json()["draining"] is True
            assert process.wait(20) == 0
        assert not path.exists()
    finally:
        process.kill()


def test_draining_is_not_offered_on_a_port(http):
    assert http.post("/control/drain").status_code in (404, 405)
