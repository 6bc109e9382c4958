"""Several requests at once, clients that leave, and the engine's own account of it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

LONG = {"max_tokens": 20_000, "temperature": 0, "extra_body": {"ignore_eos": True}, "stream": True}


def messages(text):
    return [{"role": "user", "content": text}]


def test_answers_in_company_are_those_given_alone(client, model):
    def ask(number):
        answer = client.chat.completions.create(
            model=model, messages=messages(f"What is {number} + 2?"), temperature=0, max_tokens=20
        )
        return answer.choices[0].message.content

    alone = [ask(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_a_short_request_does_not_wait_for_a_long_one(client, model):
    stream = client.chat.completions.create(model=model, messages=messages("Count."), **LONG)
    first = next(iter(stream))
    assert first.choices
    answer = client.chat.completions.create(model=model, messages=messages("Hi"), max_tokens=8, temperature=0)
    assert answer.usage.completion_tokens >= 1
    # The long one goes on.
    assert next(iter(stream)).choices
    stream.close()


def test_a_client_that_leaves_a_stream_frees_its_place(server, client, model):
    stream = client.chat.completions.create(model=model, messages=messages("Count."), **LONG)
    next(iter(stream))
    server.wait_for_metric("hearth_requests_running", lambda running: running == 1)
    before = server.metric('hearth_requests_total{end="cancelled"}')
    stream.close()
    server.wait_for_metric("hearth_requests_running", lambda running: running == 0)
    assert server.metric('hearth_requests_total{end="cancelled"}') == before + 1
    assert server.metric("hearth_kv_used_bytes") == 0


def test_a_client_that_leaves_without_streaming_frees_its_place(server, http, model):
    body = {"model": model, "messages": messages("Count."), "max_tokens": 20_000, "ignore_eos": True}
    left = threading.Event()

    def ask():
        try:
            http.post("/v1/chat/completions", json=body, timeout=httpx.Timeout(60, read=1.0))
        except httpx.ReadTimeout:
            left.set()

    thread = threading.Thread(target=ask)
    thread.start()
    server.wait_for_metric("hearth_requests_running", lambda running: running == 1)
    thread.join()
    assert left.is_set(), "the answer came before the client could leave"
    server.wait_for_metric("hearth_requests_running", lambda running: running == 0)


def test_a_slow_reader_does_not_hold_up_the_others(client, model):
    stream = client.chat.completions.create(model=model, messages=messages("Count."), **LONG)
    next(iter(stream))
    for _ in range(3):
        time.sleep(0.3)  # nothing is read meanwhile
        answer = client.chat.completions.create(model=model, messages=messages("Hi"), max_tokens=4)
        assert answer.choices
    stream.close()


def test_the_callers_request_id_comes_back(http, model):
    body = {"model": model, "messages": messages("Hi"), "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "my-own-7"})
    assert answer.headers["x-request-id"] == "my-own-7"
    assert http.post("/v1/chat/completions", json=body).headers["x-request-id"]


def test_models_health_and_metrics_tell_what_is_served(server, client, http, model):
    listed = client.models.list().data[0]
    assert listed.object == "model" and listed.model_dump()["context_length"] > 1000
    assert client.models.retrieve(model).id == model
    health = http.get("/health")
    assert health.status_code == 200 and health.json()
    text = http.get("/metrics").text
    for name in ("hearth_decode_tokens_total", "hearth_time_to_first_token_seconds_bucket", "hearth_ready 1"):
        assert name in text
