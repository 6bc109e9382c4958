"""Bad input: every refusal is JSON in OpenAI's shape, with a code, a sentence and the field at fault."""

import json
import socket
import time

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]


def refused(answer, status, code=None, param=None):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    if code:
        assert error["code"] == code, error
    if param:
        assert error["param"] == param, error
    return error


def post(http, body, path="/v1/chat/completions", kind="application/json"):
    return http.post(path, content=body, headers={"content-type": kind})


def test_bodies_that_are_no_request_are_refused(http):
    refused(post(http, b""), 400, "empty_body")
    refused(post(http, b"{"), 400, "invalid_json")
    refused(post(http, b"[1, 2]"), 400, "invalid_json")
    refused(post(http, b'{"model": "\xff\xfe"}'), 400, "invalid_json")
    refused(post(http, b"[" * 100_000), 400, "invalid_json")
    refused(post(http, b"{}", kind="text/plain"), 415)
    refused(post(http, b"a=1", kind="application/x-www-form-urlencoded"), 415)


def test_an_unknown_model_is_not_found(client, http):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    refused(post(http, json.dumps({"messages": MESSAGES}).encode()), 400, param="model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", 2.5),
        ("temperature", "hot"),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("min_p", 2),
        ("top_k", -5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_completion_tokens", "many"),
        ("seed", "seven"),
        ("stop", ["x"] * 1000),
        ("stop", [""]),
        ("stop", 5),
        ("stream", 1),
        ("stream_options", "yes"),
        ("tools", {}),
        ("n", 0),
        ("n", 17),
        ("logprobs", 3),
        ("top_logprobs", 5),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"5": 1000}),
        ("response_format", "json"),
        ("tool_choice", "required"),
        ("tool_choice", "sometimes"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(http, model, name, value):
    body = {"model": model, "messages": MESSAGES, name: value}
    refused(http.post("/v1/chat/completions", json=body), 400, "invalid_value", name)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_numbers_that_are_none_are_refused_by_name(http, model, name, number):
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}], "{name}": {number}}}'
    refused(post(http, body.encode()), 400, "invalid_value", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", 2),
        ("echo", True),
        ("prompt_logprobs", 1),
        ("functions", [{"name": "f"}]),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(http, model, name, value):
    body = {"model": model, "messages": MESSAGES, name: value}
    refused(http.post("/v1/chat/completions", json=body), 400, "unsupported_parameter", name)


def test_unknown_fields_and_harmless_values_pass(http, model):
    body = {"model": model, "messages": MESSAGES, "max_tokens": 1, "n": 1, "logprobs": False, "user": "me"}
    body |= {"store": True, "metadata": {"a": "b"}, "brand_new_field": [1], "seed": None, "stop": None}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        (None, "messages"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
    ],
)
def test_messages_that_cannot_be_rendered_are_refused_with_their_place(http, model, messages, param):
    refused(http.post("/v1/chat/completions", json={"model": model, "messages": messages}), 400, param=param)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [([], None), ("", None), (None, "prompt"), ([-1], "prompt"), ([1.5], "prompt"), ([10**9], None), (["a", 5], "prompt")],
)
def test_prompts_that_are_none_are_refused(http, model, prompt, param):
    refused(http.post("/v1/completions", json={"model": model, "prompt": prompt}), 400, param=param)


def context(client):
    return client.models.list().data[0].model_dump()["context_length"]


def test_one_token_over_the_context_is_refused_with_both_numbers(client, http, model):
    size = context(client)
    body = {"model": model, "prompt": [50] * (size - 4), "max_tokens": 5}
    error = refused(http.post("/v1/completions", json=body), 400, "context_length_exceeded")
    assert f"maximum context length is {size} tokens" in error["message"]
    assert str(size + 1) in error["message"]


def test_ten_megabytes_of_prompt_are_refused_quickly_as_too_long(client, http, model):
    for text in ("a" * 10_000_000, "word " * 2_000_000, "日本" * 1_600_000):
        begun = time.monotonic()
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        error = refused(http.post("/v1/chat/completions", json=body), 400, "context_length_exceeded")
        assert f"{context(client)} tokens" in error["message"]
        assert time.monotonic() - begun < 60, "the refusal took as long as encoding it all"
    assert client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1).choices


def test_a_body_of_more_than_32_megabytes_is_refused_before_it_is_sent(server):
    """By its announced length; a client that sends all the same may find the connection closed, which is no answer."""
    url = httpx.URL(server.url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.host}\r\nauthorization: Bearer {server.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {33 << 20}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            piece = connection.recv(65536)
            assert piece, f"closed after {answer!r}"
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert set(error) == {"message", "type", "param", "code"} and "32" in error["message"]


def test_unknown_paths_and_wrong_methods_answer_in_json(http):
    assert http.get("/v1/nothing").status_code == 404
    assert http.get("/v1/nothing").json()["error"]["message"]
    refused(http.get("/v1/chat/completions"), 405)
    assert http.put("/v1/models").status_code == 405


def test_the_servers_own_words_reach_the_official_package(client, model):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=10**9)
    assert error.value.code == "context_length_exceeded"
    assert error.value.type == "invalid_request_error"
