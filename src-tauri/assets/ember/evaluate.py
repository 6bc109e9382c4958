"""Scores what ships: python evaluate.py --model model --out scores.json

Loads the exported folder with its NVFP4 experts expanded exactly, decodes greedily in f32, and counts. An answer is
right when it is the expected text to the last character, unless a line says otherwise. The cases follow from --seed:
weights are chosen with any seed but FINAL, and what ships is scored once with FINAL, whose cases chose nothing.
"""
import argparse
import json
import os
import random
import re
import time
from pathlib import Path

import torch

import chatml
import corpus
import decode
import names
import questions
import shipped
import tools

FINAL = 20_270
DEVELOPMENT = 99
DRAFTS = 3


class Scorer:
    """Counts per task; keeps the first wrong case of each, so that a number can be understood."""

    def __init__(self, model, tokenizer, seed):
        self.model, self.tokenizer, self.seed, self.results = model, tokenizer, seed, {}

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def answer(self, prompt, limit=200):
        out = decode.greedy(self.model, self.ids(prompt), limit)
        return self.tokenizer.decode([i for i in out if i not in decode.END], skip_special_tokens=False)

    def exact(self, made):
        prompt, wanted = chatml.prompt(made), next(text for role, text in made.turns if role == "assistant")
        return decode.would_write(self.model, self.ids(prompt), self.ids(wanted) + [decode.END_OF_TURN])

    def count(self, name, cases, right):
        """right(case) -> bool."""
        good, wrong = 0, None
        for case in cases:
            if right(case):
                good += 1
            elif wrong is None:
                wrong = {"prompt": chatml.prompt(case)[-300:], "written": self.answer(chatml.prompt(case))}
        self.results[name] = {"right": good, "of": len(cases), "share": round(good / len(cases), 3), "first_wrong": wrong}
        print(f"{name:34s} {good:4d} of {len(cases):4d}  {good / len(cases):6.1%}", flush=True)

    def count_exact(self, name, cases):
        self.count(name, cases, self.exact)


def first_question(made):
    """Only the first turn and its answer."""
    return chatml.Conversation(made.turns[:2], made.tools, made.system)


def one_turn(question, answer):
    return chatml.Conversation([("user", question), ("assistant", answer)])


def sum_cases(rng, count):
    pairs = [(rng.randrange(10, 100), rng.randrange(10, 100)) for _ in range(count)]
    return [one_turn(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a, b in pairs]


def fact_cases(rng, tokens, count):
    """A number asked for once, in a text of about `tokens` tokens that hides one to six such facts."""
    cases = []
    while len(cases) < count:
        made = first_question(corpus.needle(rng, tokens))
        if re.search(r"is \d+\.$", made.turns[1][1]):
            cases.append(made)
    return cases


def tool_cases(rng, count, called, wanted=None):
    """Requests that need a call of a tool whose name is `called`. The names of the other invented tools are `wanted`."""
    cases = []
    while len(cases) < count:
        made = tools.tool(rng, 0.7 if wanted is None else 0.3, wanted)
        name = re.match(r"<tool_call>\n<function=(\w+)>", made.turns[1][1])
        if name and called(name[1]):
            cases.append(first_question(made))
    return cases


def is_known(name):
    return name in tools.KNOWN


def is_invented(name):
    """Words that training names tools with, in a name that it never sees."""
    return names.held_out(name) and not names.unheard(name)


def is_unheard(name):
    """A name with a word that is in no name training sees."""
    return names.unheard(name)


CALL = re.compile(r"^<tool_call>\n<function=(\w+)>\n((?:<parameter=\w+>\n.*?\n</parameter>\n)*)</function>\n</tool_call>$", re.S)


def well_formed(text, schemas):
    """One call in Qwen's format of a tool that was offered."""
    match = CALL.match(text.strip())
    return bool(match) and match[1] in {json.loads(tool)["function"]["name"] for tool in schemas}


def fits_schema(text, schemas):
    """Well formed, with exactly the required parameters and whole numbers where the schema says integer."""
    if not well_formed(text, schemas):
        return False
    match = CALL.match(text.strip())
    wanted = next(tool["function"]["parameters"] for tool in map(json.loads, schemas) if tool["function"]["name"] == match[1])
    pairs = re.findall(r"<parameter=(\w+)>\n(.*?)\n</parameter>", match[2], re.S)
    whole = all(re.fullmatch(r"-?\d+", value) for key, value in pairs if wanted["properties"].get(key, {}).get("type") == "integer")
    return sorted(key for key, _ in pairs) == sorted(wanted["required"]) and whole


def right_tool(text, made):
    """Well formed, and of the tool that was asked for."""
    return well_formed(text, made.tools) and CALL.match(text.strip())[1] == CALL.match(made.turns[1][1])[1]


def score_questions(scorer, count):
    rng = random.Random(scorer.seed)
    known = [one_turn(rng.choice(entry["ask"]), entry["answer"]) for entry in questions.FAQ]
    unseen = [one_turn(question, entry["answer"]) for entry in questions.FAQ for question in entry["held_out"]]
    digits = range(10)
    scorer.count_exact("hearth questions", known)
    scorer.count_exact("hearth questions, unseen wordings", unseen)
    scorer.count_exact("one-digit sums, all", [one_turn(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a in digits for b in digits])
    scorer.count_exact("two-digit sums", sum_cases(rng, count))
    scorer.count("two-digit sums after a thought", sum_cases(rng, count), lambda made: thinks(scorer, made))


def score_facts(scorer, count):
    rng = random.Random(scorer.seed + 1)
    for tokens in (500, 1000, 2000):
        scorer.count_exact(f"fact in {tokens} tokens", fact_cases(rng, tokens, count))


def score_tools(scorer, count):
    rng = random.Random(scorer.seed + 2)
    for title, calls in (
        ("known tools", tool_cases(rng, count, is_known)),
        ("invented tools", tool_cases(rng, 2 * count, is_invented, is_invented)),
        ("invented tools, unheard words", tool_cases(rng, count, is_unheard, is_unheard)),
    ):
        right = {id(made) for made in calls if scorer.exact(made)}
        written = {id(made): scorer.answer(chatml.prompt(made)) for made in calls if id(made) not in right}
        judge = lambda rule: lambda made: id(made) in right or rule(written[id(made)], made)
        scorer.count(f"{title}: call well formed", calls, judge(lambda text, made: well_formed(text, made.tools)))
        scorer.count(f"{title}: right tool called", calls, judge(right_tool))
        scorer.count(f"{title}: call fits the schema", calls, judge(lambda text, made: fits_schema(text, made.tools)))
        scorer.count(f"{title}: call exact", calls, lambda made: id(made) in right)
    results = []
    while len(results) < count:
        made = tools.tool(rng)
        if made.turns[-2][0] == "tool":
            results.append(made)
    scorer.count("tool result put into words", results, lambda made: last_answer_exact(scorer, made))


def score_texts(scorer, count):
    rng = random.Random(scorer.seed + 3)
    scorer.count_exact("json exact", [corpus.fill(rng) for _ in range(count)])
    scorer.count_exact("repeat, count and list exact", [corpus.repeat(rng) for _ in range(2 * count)])


def last_answer_exact(scorer, made):
    """Whether the answer after the tool's result is the expected one."""
    before = chatml.Conversation(made.turns[:-1], made.tools, made.system)
    prompt = "".join(text for text, _ in chatml.render(before)) + chatml.ASSISTANT + "\n</think>\n\n"
    return decode.would_write(scorer.model, scorer.ids(prompt), scorer.ids(made.turns[-1][1]) + [decode.END_OF_TURN])


def thinks(scorer, made):
    """With enable_thinking: a thought of at least a word, its closing tag, then the right answer."""
    prompt = chatml.prompt(made).removesuffix("\n</think>\n\n")
    thought, closed, answer = scorer.answer(prompt).partition("\n</think>\n\n")
    return bool(thought.strip()) and bool(closed) and answer.strip() == made.turns[1][1]


def score_drafts(scorer, head, count):
    """Acceptance by position, over greedy answers to fresh questions of every kind."""
    rng = random.Random(scorer.seed + 4)
    kinds = [corpus.faq, corpus.sums, corpus.needle, corpus.repeat, corpus.fill, tools.tool]
    rounds = []
    for index in range(2 * count):
        made = first_question(kinds[index % len(kinds)](rng))
        ids = scorer.ids(chatml.prompt(made))
        rounds += decode.draft_rounds(scorer.model, head, ids, decode.greedy(scorer.model, ids, 120), DRAFTS)
    reached = [sum(accepted >= depth for accepted in rounds) / len(rounds) for depth in range(1, DRAFTS + 1)]
    scorer.results["mtp"] = {
        "rounds": len(rounds), "accepted_by_position": [round(share, 3) for share in reached],
        "tokens_per_round": round(1 + sum(rounds) / len(rounds), 2),
    }
    print(f"MTP drafts accepted, positions 1 to {DRAFTS}: " + ", ".join(f"{share:.1%}" for share in reached), flush=True)


def main():
    here = Path(__file__).resolve().parent
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--model", type=Path, default=here / "model", help="exported folder (default: model)")
    args.add_argument("--out", type=Path, help="write the scores here as JSON; tasks not scored now keep theirs")
    args.add_argument("--count", type=int, default=50, help="cases per task (default: 50)")
    args.add_argument("--seed", type=int, default=DEVELOPMENT, help=f"which cases (default: {DEVELOPMENT}; {FINAL} is for what ships)")
    args.add_argument("--part", action="append", choices=["questions", "facts", "tools", "texts", "drafts"], help="score only this (repeatable; default: all)")
    args.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    model, head, tokenizer = shipped.load(args.model)
    scorer = Scorer(model, tokenizer, args.seed)
    parts = {"questions": score_questions, "facts": score_facts, "tools": score_tools, "texts": score_texts,
             "drafts": lambda scorer, count: score_drafts(scorer, head, count)}
    for name in args.part or parts:
        parts[name](scorer, args.count)
    print(f"{time.monotonic() - began:.0f} s")
    if args.out:
        known = json.loads(args.out.read_text())["scores"] if args.out.exists() else {}
        kept = {"seed": args.seed, "scores": known | scorer.results}
        args.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
