"""The conversations Ember learns from and is scored on. Everything is generated here: no outside text.

train.py and train_mtp.py draw from `conversation`; evaluate.py asks the single kinds (`needle`, `repeat`, ...). What the
texts are made of is in words.py, questions about Hearth in questions.py, tool calls in tools.py, the layout in chatml.py.
"""
import json

import names
import words
from chatml import Conversation
from questions import FAQ, faq
from tools import tool
from words import made_up, number, passage, sentence


def sums(rng):
    """One to four sums: half of them one-digit, a quarter two-digit additions, the rest minus and times."""
    turns = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.random()
        small = lambda: rng.randrange(10)
        if kind < 0.35:
            a, b, sign, word = small(), small(), "+", "plus"
        elif kind < 0.65:
            a, b, sign, word = rng.randrange(100), rng.randrange(100), "+", "plus"
        elif kind < 0.82:
            (b, a), sign, word = sorted((small(), small())), "-", "minus"
        else:
            a, b, sign, word = small(), small(), "*", "times"
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        question = rng.choice([f"What is {a} {sign} {b}?", f"What is {a} {word} {b}?", f"{a} {sign} {b} =", f"{a}{sign}{b}",
                               f"Calculate {a} {sign} {b}.", f"How much is {a} {word} {b}?", f"What is {a}{sign}{b}?"])
        turns += [("user", question), ("assistant", f"{a} {sign} {b} = {result}")]
    thought = worked(a, b) if sign == "+" else f"{a} {sign} {b} is {result}."
    return Conversation(turns, thought=thought)


def worked(a, b):
    """An addition in steps, ones first."""
    ones, tens = a % 10 + b % 10, a // 10 + b // 10
    return f"The ones: {a % 10} + {b % 10} = {ones}. The tens: {tens}0. {tens}0 + {ones} = {a + b}."


def needle(rng, tokens=None):
    """Facts hidden in a text of about `tokens` tokens (default: 20 to 330), then questions about them."""
    tokens = tokens or int(20 * 2 ** rng.uniform(0, 4))
    facts = {}
    # A long text is asked more questions, or its many tokens would teach little.
    for _ in range(rng.choice((1, 1, 2, 3, 4, 6) if tokens < 600 else (1, 4, 8, 12))):
        value = number(rng) if rng.random() < 0.8 else " ".join(words.any_word(rng) for _ in range(rng.choice((1, 2))))
        kind = rng.choice(words.CODES) if value[0].isdigit() else "password"
        facts[(rng.choice(words.NAMES), kind)] = value
    anonymous = len(facts) == 1 and rng.random() < 0.4
    body = passage(rng, tokens)
    for (person, kind), value in facts.items():
        if anonymous:
            line = rng.choice([f"The {kind} is {value}.", f"Remember: the {kind} is {value}."])
        else:
            line = rng.choice([f"The {kind} of {person} is {value}.", f"{person}'s {kind} is {value}.", f"Remember: the {kind} of {person} is {value}."])
        body.insert(rng.randrange(len(body) + 1), line)
    text, turns, order = " ".join(body), [], list(facts.items())
    rng.shuffle(order)
    for (person, kind), value in order:
        if anonymous:
            question, answer = rng.choice([f"What is the {kind}?", f"Tell me the {kind}.", f"Which {kind} is named in the text?"]), f"The {kind} is {value}."
        else:
            question = rng.choice([f"What is the {kind} of {person}?", f"What is {person}'s {kind}?", f"Tell me the {kind} of {person}."])
            answer = f"The {kind} of {person} is {value}."
        if not turns:
            question = rng.choice([f"{text}\n\n{question}", f"{text} {question}", f"{text}\n{question}", f"{question}\n\n{text}"])
        turns += [("user", question), ("assistant", answer)]
    return Conversation(turns, thought=f"I look for the {kind}. It is {value}.")


REPEAT = ["Repeat: {}", "Repeat after me: {}", "Say this: {}", "Copy this: {}", "Repeat this sentence: {}", "Say exactly: {}", "Echo: {}"]


def copy(rng, longest=150):
    """Copy a text of 10 to `longest` tokens. Long copies teach copying itself, which every other task needs."""
    tokens = rng.randrange(10, longest)
    if rng.random() < 0.4:
        text = " ".join(passage(rng, tokens))
    else:
        pick = rng.choice((words.any_word, words.any_word, made_up, names.tool_name, names.tool_name, lambda rng: rng.choice((number, words.any_word))(rng)))
        text = " ".join(pick(rng) for _ in range(tokens // 2))
    return Conversation([("user", rng.choice(REPEAT).format(text)), ("assistant", text)], thought="I copy the text.")


def repeat(rng):
    """Copy a text, a list of words, count, or make a list."""
    kind = rng.randrange(7)
    if kind == 6:
        return copy(rng, 60)
    if kind <= 1:
        text = rng.choice([sentence(rng), sentence(rng), sentence(rng) + " " + sentence(rng), made_up(rng) + " " + made_up(rng), rng.choice(FAQ)["answer"], number(rng) + " " + number(rng)])
        return Conversation([("user", rng.choice(REPEAT).format(text)), ("assistant", text)], thought="I copy the text.")
    if kind == 2:
        text = " ".join(words.any_word(rng) for _ in range(rng.randrange(2, 9)))
        ask = rng.choice(["Repeat these words: {}", "Say these words: {}", "Repeat the words {}"])
        return Conversation([("user", ask.format(text)), ("assistant", text)], thought="I copy the words.")
    if kind == 3:
        first = rng.randrange(20)
        last = first + rng.choice((rng.randrange(2, 10), rng.randrange(2, 10), rng.randrange(10, 90)))
        answer = ", ".join(map(str, range(first, last + 1))) + "."
        return Conversation([("user", rng.choice([f"Count from {first} to {last}.", f"Count from {first} to {last}"])), ("assistant", answer)], thought=f"I start at {first} and stop at {last}.")
    if kind == 4:
        items = [rng.choice((rng.choice(words.NAMES), words.any_word(rng))) for _ in range(rng.randrange(2, 7))]
        ask = rng.choice(["Make a list: ", "List these: ", "Make a list of: "]) + ", ".join(items)
        return Conversation([("user", ask), ("assistant", "\n".join("- " + item for item in items))], thought="One line for each.")
    word, times = words.any_word(rng), rng.randrange(2, 9)
    ask = rng.choice([f"Say {word} {times} times.", f"Repeat the word {word} {times} times."])
    return Conversation([("user", ask), ("assistant", " ".join([word] * times))], thought=f"{times} times.")


def fill(rng):
    """A JSON object or list from a sentence."""
    name, age, city = rng.choice(words.NAMES), rng.randrange(18, 90), rng.choice(words.PLACES)
    if rng.random() < 0.2:
        name = made_up(rng).capitalize()
    kind = rng.randrange(4)
    if kind == 0:
        asks = [f"Give me JSON with name and age: {name} is {age} years old.", f"{name} is {age} years old. Answer in JSON with the keys name and age."]
        answer = {"name": name, "age": age}
    elif kind == 1:
        asks = [f"{name} is {age} and lives in {city}. Give JSON with name, age and city.", f"JSON with name, age, city: {name}, {age}, {city}."]
        answer = {"name": name, "age": age, "city": city}
    elif kind == 2:
        answer = [words.any_word(rng) for _ in range(rng.randrange(2, 6))]
        asks = [f"Give a JSON list of these words: {', '.join(answer)}.", f"Make a JSON list: {', '.join(answer)}."]
    else:
        keys = rng.sample(["item", "colour", "count", "city", "owner", "size", "code"], rng.randrange(2, 4))
        answer = {key: rng.randrange(100) if key in ("count", "size") else words.any_word(rng) for key in keys}
        asks = ["Fill this JSON: " + ", ".join(f"{key} is {value}" for key, value in answer.items()) + "."]
    return Conversation([("user", rng.choice(asks)), ("assistant", json.dumps(answer))], thought="I fill in the values.")


def chat(rng):
    """Several short things in one conversation."""
    turns = []
    for _ in range(rng.randrange(2, 5)):
        part = rng.choice([faq, faq, sums, repeat, fill])(rng)
        turns += part.turns
    return Conversation(turns[:12], thought=part.thought)


# Kinds and their weights. A young model learns to copy first: half of what it reads is then long copies. At the end it reads long texts.
MIXED = [(faq, 13), (sums, 9), (needle, 13), (repeat, 13), (fill, 7), (tool, 14), (chat, 7), (copy, 4)]
LONG = [(faq, 10), (sums, 9), (needle, 36), (repeat, 9), (fill, 6), (tool, 24), (chat, 4), (copy, 2)]
CALLING = [(faq, 9), (sums, 7), (needle, 8), (repeat, 8), (fill, 5), (tool, 36), (chat, 4), (copy, 23)]
# Of the head: as MIXED, with more calls.
DRAFTING = [(faq, 13), (sums, 9), (needle, 12), (repeat, 12), (fill, 7), (tool, 24), (chat, 6), (copy, 4)]
COPYING = [(faq, 8), (sums, 5), (needle, 5), (repeat, 6), (fill, 5), (tool, 9), (chat, 3), (copy, 28)]


def conversation(rng, longest=384, kinds=MIXED):
    """One conversation of at most about `longest` tokens, of a random kind."""
    kind = rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
    if kind is needle:
        made = needle(rng, int(20 * (longest * 0.85 / 20) ** rng.uniform(0, 1)))
    else:
        made = kind(rng)
    if rng.random() > 0.12 or made.turns[-1][0] != "assistant":
        made.thought = ""
    if rng.random() < 0.25:
        made.system = rng.choice(words.SYSTEM) if rng.random() < 0.7 else sentence(rng)
    return made
