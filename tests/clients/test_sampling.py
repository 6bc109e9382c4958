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
