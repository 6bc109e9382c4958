"""Anthropic's Messages API, with the official package: text, streams, tools, counting, errors."""

import anthropic
import pytest

QUESTION = [{"role": "user", "content": "What is Hearth?"}]
TOOL = {
    "name": "weather",
    "description": "Tells how warm it is.",
    "input_schema": {"type": "object", "properties": {"unit": {"type": "string", "enum": ["c", "f"]}}, "required": ["unit"]},
}


@pytest.fixture
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=120.0) as client:
        yield client


def test_a_message_has_its_text_its_usage_and_its_reason(claude, client, model):
    message = claude.messages.create(model=model, max_tokens=64, extra_body={"temperature": 0}, messages=QUESTION)
    assert message.stop_reason == "end_turn" and message.role == "assistant"
    chat = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=64)
    assert message.content[0].text == chat.choices[0].message.content
    used = message.usage
    assert used.input_tokens + used.cache_read_input_tokens == chat.usage.prompt_tokens
    assert used.output_tokens == chat.usage.completion_tokens
    assert claude.messages.create(model=model, max_tokens=1, messages=QUESTION).stop_reason == "max_tokens"
    count = claude.messages.count_tokens(model=model, messages=QUESTION)
    assert count.input_tokens == chat.usage.prompt_tokens


def test_the_events_of_a_stream_add_up_to_the_message(claude, model):
    options = {"model": model, "max_tokens": 64, "extra_body": {"temperature": 0}, "messages": QUESTION, "system": "Be brief."}
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_thoughts_are_a_block_of_their_own(claude, model):
    options = {"model": model, "max_tokens": 2000, "messages": [{"role": "user", "content": "What is 2 + 3?"}]}
    with claude.messages.stream(thinking={"type": "enabled", "budget_tokens": 1024}, **options) as stream:
        blocks = [(event.index, event.content_block.type) for event in stream if event.type == "content_block_start"]
    assert blocks[0] == (0, "thinking")
    assert [index for index, _ in blocks] == list(range(len(blocks)))


def test_a_tool_is_used_and_its_result_goes_back(claude, model):
    options = {"model": model, "max_tokens": 200, "tools": [TOOL], "extra_body": {"temperature": 0}}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    with claude.messages.stream(messages=QUESTION, tool_choice=choice, **options) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert use.name == "weather" and use.input["unit"] in ("c", "f") and use.id.startswith("toolu_")
    again = QUESTION + [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "20 degrees"}]},
    ]
    answer = claude.messages.create(messages=again, **options)
    assert answer.content and answer.stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_stop_sequences_end_the_message(claude, model):
    whole = claude.messages.create(model=model, max_tokens=64, extra_body={"temperature": 0}, messages=QUESTION).content[0].text
    stop = whole.split()[2]
    cut = claude.messages.create(model=model, max_tokens=64, extra_body={"temperature": 0}, messages=QUESTION, stop_sequences=[stop])
    assert cut.content[0].text == whole.split(stop)[0]


def test_refusals_have_the_shape_that_the_package_knows(claude, model):
    with pytest.raises(anthropic.NotFoundError) as error:
        claude.messages.create(model="gpt-9", max_tokens=5, messages=QUESTION)
    assert error.value.body["error"]["type"] == "not_found_error" and error.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError) as error:
        claude.messages.create(model=model, max_tokens=10**9, messages=QUESTION)
    assert error.value.body["error"]["message"].startswith("prompt is too long")
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model=model, max_tokens=5, messages=QUESTION, extra_body={"temperature": 9})
