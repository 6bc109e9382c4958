"""Sampling through the endpoint: seeds, temperature, company."""

from concurrent.futures import ThreadPoolExecutor

MESSAGES = [{"role": "user", "content": "Tell me about Hearth."}]


def text(client, model, **options):
    options = {"temperature": 1.5, "max_tokens": 24, "extra_body": {"ignore_eos": True}} | options
    answer = client.chat.completions.create(model=model, messages=MESSAGES, **options)
    return answer.choices[0].message.content


def test_the_same_seed_gives_the_same_answer_and_others_differ(client, model):
    first = text(client, model, seed=7)
    assert text(client, model, seed=7) == first
    others = {text(client, model, seed=seed) for seed in range(4)}
    assert len(others) > 1


def test_a_seed_gives_the_same_answer_in_company(client, model):
    alone = text(client, model, seed=11)
    with ThreadPoolExecutor(6) as pool:
        seeds = [11, 1, 11, 2, 11, 3]
        answers = list(pool.map(lambda seed: text(client, model, seed=seed), seeds))
    assert [a for a, seed in zip(answers, seeds) if seed == 11] == [alone] * 3


def test_temperature_zero_is_the_same_every_time_and_top_k_one_is_the_same_as_it(client, model):
    greedy = text(client, model, temperature=0)
    assert text(client, model, temperature=0, seed=99) == greedy
    assert text(client, model, temperature=1, extra_body={"ignore_eos": True, "top_k": 1}) == greedy
    assert text(client, model, temperature=1, top_p=0) == greedy
    assert text(client, model, temperature=1, extra_body={"ignore_eos": True, "min_p": 1}) == greedy


def test_penalties_change_a_greedy_answer(client, model):
    plain = text(client, model, temperature=0, max_tokens=60)
    assert text(client, model, temperature=0, max_tokens=60, frequency_penalty=2, presence_penalty=2) != plain


def test_several_choices_share_a_prompt_and_have_their_own_seeds(client, model):
    # So hot that no two answers of a small, certain model agree by chance.
    options = {"temperature": 2, "max_tokens": 48, "seed": 3, "extra_body": {"ignore_eos": True}}
    alone = client.chat.completions.create(model=model, messages=MESSAGES, **options)
    three = client.chat.completions.create(model=model, messages=MESSAGES, n=3, **options)
    texts = [choice.message.content for choice in three.choices]
    assert texts[0] == alone.choices[0].message.content
    assert len(set(texts)) == 3
    assert three.usage.prompt_tokens == alone.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * 48


def test_likelihoods_name_every_token_with_its_bytes(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert entry.logprob <= 0 and bytes(entry.bytes).decode() == entry.token
        assert [top.logprob for top in entry.top_logprobs] == sorted((t.logprob for t in entry.top_logprobs), reverse=True)
        assert entry.top_logprobs[0].token == entry.token
    plain = client.completions.create(model=model, prompt="One, two,", max_tokens=4, logprobs=3, temperature=0)
    likely = plain.choices[0].logprobs
    assert len(likely.tokens) == len(likely.token_logprobs) == len(likely.text_offset) == 4
    assert all(len(top) <= 3 for top in likely.top_logprobs)


def test_a_bias_forbids_and_forces_tokens(client, model):
    first = client.completions.create(model=model, prompt="One, two,", max_tokens=1, temperature=0, extra_body={"return_token_ids": True})
    token = first.choices[0].model_dump()["token_ids"][0]
    other = client.completions.create(model=model, prompt="One, two,", max_tokens=1, temperature=0, logit_bias={token: -100})
    assert other.choices[0].text != first.choices[0].text
    forced = client.completions.create(model=model, prompt="Hello", max_tokens=3, logit_bias={token: 100})
    assert forced.choices[0].text == first.choices[0].text * 3
