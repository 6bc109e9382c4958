"""Answers of a given form: schemas, expressions, choices, grammars, calls that must be made."""

import json
import re
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

MESSAGES = [{"role": "user", "content": "Describe a cat."}]


class Animal(BaseModel):
    name: str = Field(max_length=12)
    legs: int = Field(ge=0, le=8)
    size: Literal["small", "large"]


def test_the_packages_own_parser_gets_an_object_of_the_schema(client, model):
    for seed in range(4):
        answer = client.chat.completions.parse(
            model=model, messages=MESSAGES, response_format=Animal, seed=seed, temperature=1, max_tokens=200
        )
        animal = answer.choices[0].message.parsed
        assert isinstance(animal, Animal) and 0 <= animal.legs <= 8 and len(animal.name) <= 12


def test_a_streamed_answer_of_a_schema_is_the_same_text(client, model):
    schema = {"type": "json_schema", "json_schema": {"name": "animal", "strict": True, "schema": Animal.model_json_schema()}}
    options = {"model": model, "messages": MESSAGES, "response_format": schema, "temperature": 0, "max_tokens": 200}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = client.chat.completions.create(**options, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    Animal.model_validate_json(whole)


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"structured_outputs": {"choice": ["red", "green"]}}, r"red|green"),
        ({"structured_outputs": {"regex": r"[a-f]{4}-\d"}}, r"[a-f]{4}-\d"),
        ({"structured_outputs": {"grammar": 'start: "<" WORD ">"\nWORD: /[a-z]{1,5}/'}}, r"<[a-z]{1,5}>"),
        ({"guided_choice": ["yes", "no"]}, r"yes|no"),
        ({"response_format": {"type": "regex", "pattern": "x{2,3}"}}, r"xx|xxx"),
    ],
)
def test_every_kind_of_form_is_kept(http, model, body, pattern):
    for seed in range(3):
        body = body | {"model": model, "messages": MESSAGES, "seed": seed, "max_tokens": 40}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"]), answer


def test_any_json_object_parses(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, response_format={"type": "json_object"}, temperature=0, max_tokens=300
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_required_tool_is_called_with_arguments_of_its_schema(client, model):
    parameters = {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["c", "f"]}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["unit", "days"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": "weather", "strict": True, "parameters": parameters}}]
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=200
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and arguments["unit"] in "cf" and 1 <= arguments["days"] <= 5


def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(client, model):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strange"}}}
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model, messages=MESSAGES, response_format=schema)
    assert (error.value.code, error.value.param) == ("invalid_grammar", "response_format.json_schema.schema")
