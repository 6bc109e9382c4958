"""Conversations in which Ember calls a tool in Qwen's XML format and reads its result. Used by corpus.py and evaluate.py."""
import json

import names
import words
from chatml import Conversation
from questions import faq
from words import made_up, sentence

# name -> (parameters, questions)
KNOWN = {
    "get_weather": ({"city": "string"}, ["What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}, please.", "What is the weather like in {city}?"]),
    "get_time": ({"city": "string"}, ["What time is it in {city}?", "Tell me the time in {city}."]),
    "add": ({"a": "integer", "b": "integer"}, ["Use the tool to add {a} and {b}.", "Add {a} and {b} with the tool."]),
    "send_message": ({"to": "string", "text": "string"}, ["Send {to} the message: {text}", "Write to {to}: {text}"]),
    "search": ({"query": "string"}, ["Search for {query}.", "Look up {query}."]),
    "set_timer": ({"minutes": "integer"}, ["Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes."]),
}
def schema(rng, name, parameters):
    """The tool as one line of JSON; spacing and key order vary as they do between clients."""
    properties = {}
    for key, kind in parameters.items():
        properties[key] = {"type": kind}
        if rng.random() < 0.25:
            properties[key]["description"] = "The " + " ".join(names.parts_of(key))
    body = {"type": "object", "properties": properties, "required": list(parameters)}
    if rng.random() < 0.1:
        body["additionalProperties"] = False
    plain = " ".join(names.parts_of(name))
    about = rng.choice([plain, plain.capitalize() + ".", f"Use this to {plain}."])
    tool = {"type": "function", "function": {"name": name, "description": about, "parameters": body}}
    separators = (",", ":") if rng.random() < 0.2 else None
    return json.dumps(tool, separators=separators, sort_keys=rng.random() < 0.25)


def call(name, arguments):
    lines = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


def known_tool(rng):
    """-> (name, parameters, question, arguments, result, answer) for a tool of KNOWN."""
    name = rng.choice(list(KNOWN))
    parameters, questions = KNOWN[name]
    city = rng.choice(words.PLACES) if rng.random() < 0.85 else made_up(rng).capitalize()
    values = {
        "city": city, "a": rng.randrange(100), "b": rng.randrange(100), "to": rng.choice(words.NAMES), "text": sentence(rng),
        "query": f"{rng.choice(words.QUALITIES)} {words.any_word(rng)}", "minutes": rng.randrange(1, 60),
    }
    degrees, sky = rng.randrange(-5, 35), rng.choice(["sunny", "cloudy", "rainy", "clear"])
    clock, hits = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}", rng.randrange(2, 90)
    total = values["a"] + values["b"]
    result, answer = {
        "get_weather": (json.dumps({"temperature": degrees, "sky": sky}), f"In {city} it is {degrees} degrees and {sky}."),
        "get_time": (clock, f"It is {clock} in {city}."),
        "add": (str(total), f"The sum is {total}."),
        "send_message": ("sent", f"I sent the message to {values['to']}."),
        "search": (f"{hits} results", f"I found {hits} results for {values['query']}."),
        "set_timer": ("ok", f"The timer is set for {values['minutes']} minutes."),
    }[name]
    return name, parameters, rng.choice(questions).format(**values), {key: values[key] for key in parameters}, result, answer


def value_of(rng, kind):
    """A whole number, or a word or two, or a number that is text."""
    if kind == "integer":
        return rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(100), rng.randrange(1000)))
    return rng.choice((words.any_word, words.any_word, words.any_word, lambda rng: rng.choice(words.NAMES), lambda rng: rng.choice(words.PLACES),
                       lambda rng: f"{rng.choice(words.QUALITIES)} {rng.choice(words.THINGS)}", words.number))(rng)


def given(rng, arguments):
    """The arguments as people give them: each key with its value."""
    pair, between = rng.choice([("{} {}", " and "), ("{} {}", " and "), ("{} {}", ", "), ("{}: {}", ", "), ("{} = {}", ", "), ("{}={}", " ")])
    return between.join(pair.format(key, value) for key, value in arguments.items())


def other_tool(rng, name=None, wanted=None, like=None):
    """The same for a tool with an invented name: only its schema and the question say what to write."""
    name = name or names.tool_name(rng, wanted or (lambda name: not names.held_out(name)), like)
    parameters = names.parameter_names(rng, rng.choice((1, 1, 2, 2, 3)))
    arguments = {key: value_of(rng, kind) for key, kind in parameters.items()}
    plain, with_what = " ".join(names.parts_of(name)), given(rng, arguments)
    question = rng.choice([f"Call {name} with {with_what}.", f"Use {name} with {with_what}.", f"Please {plain} with {with_what}.",
                           f"{plain.capitalize()}: {with_what}.", f"{name}: {with_what}", f"Can you {plain}? {with_what}", f"I want to {plain} with {with_what}.",
                           f"With {with_what}, {plain}.", f"Please use the tool {name}. {with_what}"])
    result = rng.choice(["ok", "done", "error: not found", made_up(rng), words.number(rng)])
    answer = "That did not work: not found." if result.startswith("error") else f"Done: {result}." if result not in ("ok", "done") else "Done."
    return name, parameters, question, arguments, result, answer


def offers(rng, known, wanted=None):
    """One to four tools with something to ask of each: {name: what known_tool and other_tool return}. `known`: the share of known ones.

    Some invented ones resemble each other, so that the whole name has to be read.
    """
    out = {}
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        invented = [name for name in out if name not in KNOWN]
        like = rng.choice(invented) if invented and rng.random() < 0.4 else None
        one = known_tool(rng) if rng.random() < known else other_tool(rng, wanted=wanted, like=like)
        if all(names.parts_of(one[0]) != names.parts_of(name) for name in out):
            out[one[0]] = one
    return out


def tool(rng, known=0.5, wanted=None):
    """One to four tools; mostly one is called, sometimes several in turn, sometimes none is needed; often the result comes back."""
    offered = list(offers(rng, known, wanted).values())
    schemas = [schema(rng, one[0], one[1]) for one in offered]
    chance = rng.random()
    if chance < 0.08:
        plain = faq(rng)
        return Conversation(plain.turns, schemas, thought="No tool is needed.")
    if chance < 0.13:
        ask = rng.choice(["Which tools do you have?", "List your tools.", "What are your tools called?"])
        return Conversation([("user", ask), ("assistant", ", ".join(one[0] for one in offered))], schemas, thought="I name them.")
    rng.shuffle(offered)
    # Several requests in one conversation: the schemas are read once and teach more.
    asked = offered[: rng.choice((1, 2, 3, 4))]
    turns = []
    for name, _, question, arguments, result, answer in asked:
        turns += [("user", question), ("assistant", call(name, arguments))]
        thought = f"I call {name}."
        if rng.random() < 0.45:
            turns += [("tool", result), ("assistant", answer)]
            thought = "The result is there."
    return Conversation(turns, schemas, thought=thought)
