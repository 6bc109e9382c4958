"""Questions about Hearth with their answers (faq.json), asked the way people type them. Used by corpus.py and tools.py."""
import json
from pathlib import Path

from chatml import Conversation

FAQ = json.loads((Path(__file__).resolve().parent / "faq.json").read_text())


def asked(rng, question):
    """A question as people type it: mostly as written, sometimes in lower case, without its mark, or more politely."""
    chance = rng.random()
    if chance < 0.12:
        question = question.rstrip(".?!")
    elif chance < 0.22:
        question = question[0].lower() + question[1:]
    elif chance < 0.27:
        question = question.lower().rstrip(".?!")
    elif chance < 0.32:
        question = rng.choice(["Please: ", "Hello. ", "Hi! ", "One question: ", "Tell me: ", "Ember, "]) + question
    elif chance < 0.36:
        question = question + rng.choice([" Thank you.", " Please.", " Answer briefly.", " I am new here."])
    return question


def faq(rng):
    entry = rng.choice(FAQ)
    turns = [("user", asked(rng, rng.choice(entry["ask"]))), ("assistant", entry["answer"])]
    return Conversation(turns, thought=rng.choice(["I know this one.", "A question with a known answer."]))
