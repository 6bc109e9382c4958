"""Conversations in which Ember calls a tool in Qwen's XML format and reads its result. Used by corpus.py and evaluate.py."""
import json

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
VERBS = "get find make open close read list check move save".split()
OBJECTS = "file user order note light door page room price task".split()
KEYS = "name id path level title count colour date owner size".split()


def schema(rng, name, parameters):
    """The tool as one line of JSON; spacing and key order vary as they do between clients."""
    properties = {}
    for key, kind in parameters.items():
        properties[key] = {"type": kind}
        if rng.random() < 0.25:
            properties[key]["description"] = "The " + key.replace("_", " ")
    body = {"type": "object", "properties": properties, "required": list(parameters)}
    if rng.random() < 0.1:
        body["additionalProperties"] = False
    about = rng.choice([name.replace("_", " "), name.replace("_", " ").capitalize() + ".", "Use this to " + name.replace("_", " ") + "."])
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


def other_tool(rng):
    """The same for a tool with an invented name: only its schema and the question say what to write."""
    name = f"{rng.choice(VERBS)}_{rng.choice(OBJECTS)}"
    keys = rng.sample(KEYS, rng.randrange(1, 4))
    parameters = {key: "integer" if key in ("id", "level", "count", "size") else "string" for key in keys}
    arguments = {key: rng.randrange(100) if kind == "integer" else words.any_word(rng) for key, kind in parameters.items()}
    given = " and ".join(f"{key} {value}" for key, value in arguments.items())
    plain = name.replace("_", " ")
    question = rng.choice([f"Call {name} with {given}.", f"Use {name} with {given}.", f"Please {plain} with {given}.", f"{plain.capitalize()}: {given}."])
    result = rng.choice(["ok", "done", "error: not found", made_up(rng), words.number(rng)])
    answer = "That did not work: not found." if result.startswith("error") else f"Done: {result}." if result not in ("ok", "done") else "Done."
    return name, parameters, question, arguments, result, answer


def tool(rng):
    """One to three tools; mostly one is called, sometimes the question needs none; often the result comes back."""
    name, parameters, question, arguments, result, answer = (known_tool if rng.random() < 0.65 else other_tool)(rng)
    offered = {name: parameters}
    for _ in range(rng.randrange(3)):
        other = (known_tool if rng.random() < 0.65 else other_tool)(rng)
        offered.setdefault(other[0], other[1])
    schemas = [schema(rng, *item) for item in offered.items()]
    rng.shuffle(schemas)
    if rng.random() < 0.12:
        plain = faq(rng)
        return Conversation(plain.turns, schemas, thought="No tool is needed.")
    turns = [("user", question), ("assistant", call(name, arguments))]
    thought = f"I call {name}."
    if rng.random() < 0.45:
        turns += [("tool", result), ("assistant", answer)]
        thought = "The result is there."
    return Conversation(turns, schemas, thought=thought)
