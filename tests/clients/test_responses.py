"""OpenAI's Responses API, with the official package: text, streams, function tools, forms."""

import json

import openai
import pytest
from pydantic import BaseModel, Field

QUESTION = "What is Hearth?"
TOOL = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["c", "f"]}},
        "required": ["unit"],
        "additionalProperties": False,
    },
}


def test_a_response_has_its_text_its_usage_and_its_status(client, model):
    response = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=64)
    assert response.status == "completed" and "Hearth" in response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=64
    )
    assert response.output_text == chat.choices[0].message.content
    short = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=2)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"


def test_the_events_of_a_stream_add_up_to_the_response(client, model):
    options = {"model": model, "input": QUESTION, "temperature": 0, "max_output_tokens": 64}
    whole = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text == whole.output_text


def test_thoughts_are_an_item_of_their_own(client, model):
    response = client.responses.create(
        model=model, input="What is 2 + 3?", reasoning={"effort": "low"}, temperature=0, max_output_tokens=200
    )
    assert response.output[0].type == "reasoning"


def test_a_function_is_called_and_its_output_goes_back(client, model):
    options = {"model": model, "tools": [TOOL], "temperature": 0, "max_output_tokens": 100}
    question = [{"role": "user", "content": "How warm is it?"}]
    with client.responses.stream(input=question, tool_choice="required", parallel_tool_calls=False, **options) as stream:
        events = list(stream)
        response = stream.get_final_response()
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "weather" and json.loads(call.arguments)["unit"] in "cf"
    deltas = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert deltas == call.arguments
    again = question + [item.model_dump(exclude_none=True) for item in response.output]
    again.append({"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"})
    assert client.responses.create(input=again, **options).status in ("completed", "incomplete")


class Animal(BaseModel):
    name: str = Field(max_length=10)
    legs: int = Field(ge=0, le=8)


def test_a_form_is_kept_and_parsed(client, model):
    response = client.responses.parse(model=model, input="A cat.", text_format=Animal, temperature=1, max_output_tokens=100)
    assert isinstance(response.output_parsed, Animal)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "strange"}}}}, "text.format.schema"),
    ],
)
def test_what_is_refused_is_refused_by_the_name_it_has_here(client, model, options, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**({"model": model, "input": "Hi"} | options))
    assert error.value.param == param
