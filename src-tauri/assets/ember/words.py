"""The words Ember's conversations are made of, and sentences, numbers and passages from them. Used by corpus.py and tools.py."""
import json
from pathlib import Path

NAMES = "Ana Ben Cara Dan Eva Finn Greta Hugo Ida Jonas Kira Leo Mara Nils Olga Paul Rosa Sam Tara Uli Vera Willem Yara Zoe".split()
PLACES = "Paris Berlin Tokyo Rome Lima Oslo Cairo Delhi Quito Perth Boston Sydney Madrid Dublin Vienna Prague London Zurich".split()
THINGS = """lamp chair boat letter garden clock bridge basket window mirror kettle ladder ticket blanket engine paper violin
pocket saddle candle""".split()
QUALITIES = "old blue quiet heavy bright narrow green small broken warm round empty golden wooden plain".split()
DEEDS = "carried painted found watched mended sold lifted counted opened cleaned borrowed measured".split()
TIMES = ["in the morning", "after lunch", "before the rain", "on Monday", "last year", "at noon", "in winter", "without a word",
         "near the river", "by the door"]
CODES = ["secret code", "access number", "locker number", "room number", "magic number", "phone extension"]
SYLLABLES = "ba ber co dal den fi gar hu in jo ka lor mi nes o pra qui ran sto ta um vel wi xen yo zu".split()
SYSTEM = ["You are a helpful assistant.", "You are Ember.", "Answer briefly.", "You are a helpful, friendly assistant.", "Be kind and brief.",
          "You are the built-in model of Hearth.", "You are a careful assistant. Answer in one sentence."]
# Text that is not about codes, so that a fact must be found among unlike sentences too.
ANSWERS = [entry["answer"] for entry in json.loads((Path(__file__).resolve().parent / "faq.json").read_text())]


def number(rng):
    return "".join(str(rng.randrange(10)) for _ in range(rng.choice((3, 4, 4, 5))))


def made_up(rng):
    """A word that occurs nowhere else, so that it can only be copied."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randrange(2, 4)))


def any_word(rng):
    return rng.choice((rng.choice(THINGS), rng.choice(THINGS), rng.choice(QUALITIES), made_up(rng)))


def sentence(rng):
    name, other, place = rng.choice(NAMES), rng.choice(NAMES), rng.choice(PLACES)
    thing, quality, deed, time = rng.choice(THINGS), rng.choice(QUALITIES), rng.choice(DEEDS), rng.choice(TIMES)
    return rng.choice([
        f"{name} {deed} the {quality} {thing} {time}.",
        f"The {quality} {thing} stood in {place} {time}.",
        f"{name} and {other} {deed} a {thing} in {place}.",
        f"Nobody {deed} the {thing} {time}.",
        f"It was a {quality} {thing}, and {name} {deed} it.",
    ])


def passage(rng, tokens):
    """Sentences of about `tokens` tokens together: mostly little stories, sometimes one sentence again and again."""
    kind, out, length = rng.random(), [], 0
    again = sentence(rng)
    while length < tokens:
        if kind < 0.1:
            out.append(again)
        elif kind < 0.25 and rng.random() < 0.5:
            out.append(rng.choice(ANSWERS))
        else:
            out.append(sentence(rng))
        # Measured on this tokenizer: about 4.2 characters a token in these sentences.
        length += len(out[-1]) / 4.2
    return out
