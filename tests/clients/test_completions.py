"""Text completions: prompts of text and of token ids."""


def test_a_text_prompt_is_continued(client, model):
    answer = client.completions.create(model=model, prompt="Hearth is", max_tokens=8, temperature=0)
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens <= 8
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_sixteen_tokens_are_written_when_no_limit_is_given(client, model):
    answer = client.completions.create(
        model=model, prompt="Hearth is", temperature=0, extra_body={"ignore_eos": True}
    )
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_a_stream_carries_the_same_text(client, model):
    options = {"model": model, "prompt": "One, two,", "max_tokens": 12, "temperature": 0}
    options["extra_body"] = {"ignore_eos": True}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"


def test_token_ids_are_a_prompt(client, model):
    ids = [1, 50, 60, 70]
    answer = client.completions.create(model=model, prompt=ids, max_tokens=3, temperature=0)
    assert answer.usage.prompt_tokens == 4
    nested = client.completions.create(model=model, prompt=[ids], max_tokens=3, temperature=0)
    assert nested.choices[0].text == answer.choices[0].text


def test_stop_strings_end_a_completion(client, model):
    options = {"model": model, "prompt": "Hearth is", "max_tokens": 30, "temperature": 0}
    options["extra_body"] = {"ignore_eos": True}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[4:7]
    answer = client.completions.create(**options, stop=stop)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
