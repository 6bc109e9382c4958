"""Tool calls, with and without streaming."""

import json

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city"}},
            "required": ["city"],
        },
    },
}
MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]


def test_a_tool_is_called_with_json_arguments(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[TOOL], temperature=0, max_tokens=100
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.function.name == "get_weather" and call.id
    assert "city" in json.loads(call.function.arguments)
    assert "<tool_call>" not in (choice.message.content or "")


def test_a_streamed_call_is_the_same_call(client, model):
    options = {"model": model, "messages": MESSAGES, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    whole = client.chat.completions.create(**options).choices[0]
    deltas, reasons = [], []
    for chunk in client.chat.completions.create(**options, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or []
        reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] == "tool_calls"
    assert all(d.index == 0 for d in deltas)
    named = [d for d in deltas if d.id]
    assert len(named) == 1 and named[0].function.name == "get_weather"
    arguments = "".join(d.function.arguments or "" for d in deltas)
    assert json.loads(arguments) == json.loads(whole.message.tool_calls[0].function.arguments)


def test_the_result_of_a_call_goes_back_to_the_model(client, model):
    options = {"model": model, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    message = client.chat.completions.create(messages=MESSAGES, **options).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny, 21 degrees"}
    answer = client.chat.completions.create(messages=[*MESSAGES, message, result], **options)
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_no_tool_is_called_when_none_may_be(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[TOOL], tool_choice="none", temperature=0, max_tokens=60
    )
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_tools_of_hosted_services_are_left_out_and_broken_ones_refused(client, model, http):
    hosted = {"type": "web_search"}
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[hosted, TOOL], temperature=0, max_tokens=100
    )
    assert answer.choices[0].message.tool_calls
    body = {"model": model, "messages": MESSAGES, "tools": [{"type": "function", "function": {}}]}
    refused = http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
