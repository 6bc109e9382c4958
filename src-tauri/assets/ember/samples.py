"""Greedy answers of the shipped model, for tests of the engine: python samples.py --model model

Writes beside this file
    samples.json         20 requests: messages, tools, the rendered prompt, its ids, the ids transformers writes after it
                         in f32 on the exactly expanded weights, and per id the distance to the second-best logit
    logits.safetensors   ids [64] of one prompt; the trunk's logits and the MTP head's at its last 8 positions, f32 [8, 2048]
An engine that computes in f32 gives the same ids wherever `gap` is not tiny.
"""
import argparse
import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

import decode
import mtp
import shipped

WANTED, LEAST_IDS, MOST_IDS = 20, 24, 48
LOGIT_IDS, LOGIT_ROWS = 64, 8

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SEND = {"type": "function", "function": {"name": "send_message", "description": "Send message.", "parameters": {
    "type": "object", "properties": {"to": {"type": "string"}, "text": {"type": "string"}}, "required": ["to", "text"]}}}
STORY = ("Mara mended the old lamp at noon. The secret code of Finn is 4821. Nobody opened the basket in winter. "
         "Hugo's room number is 305. It was a golden boat, and Ida sold it. Zoe borrowed the heavy ladder without a word. Ben sold a clock in Rome.")
USED_TOOL = [
    {"role": "user", "content": "What is the weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]},
    {"role": "tool", "content": '{"temperature": 7, "sky": "cloudy"}'},
    {"role": "user", "content": "Count from 1 to 20."},
]

# (what the user asks, tools, enable_thinking): the first WANTED whose answers have LEAST_IDS ids are taken.
REQUESTS = [
    ("What is Hearth?", [], False), ("Who are you?", [], False), ("How do I start the endpoint?", [], False),
    ("What is MTP?", [], False), ("What is NVFP4?", [], False), ("Can others on my network use it?", [], False),
    ("Is my data private?", [], False), ("Which model should I use?", [], False), ("Can I use Claude Code with Hearth?", [], False),
    ("Why is it slow?", [], False), ("What is the DGX Spark?", [], False), ("What can you do?", [], False),
    ("Count from 1 to 30.", [], False), ("List the months.", [], False),
    ("Repeat: Ana and Leo painted a kettle in Vienna. The quiet violin stood in Lima after lunch. Nobody sold the saddle on Monday.", [], False),
    ("Give me JSON with name, age and city: Greta is 34 and lives in Prague.", [], False),
    ("What is the weather in Madrid?", [WEATHER, SEND], False),
    ("Send Paul the message: Rosa cleaned the narrow window at noon.", [WEATHER, SEND], False),
    ("What is 47 + 38?", [], True), (USED_TOOL, [WEATHER], False),
    ("What is prefix caching?", [], False), ("What is speculative decoding?", [], False), ("How do I add a model?", [], False),
    ("Can I use the OpenAI library?", [], False),
]


def sample(model, tokenizer, request, tools, thinking):
    messages = request if isinstance(request, list) else [{"role": "user", "content": request}]
    prompt = tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False, enable_thinking=thinking)
    ids = tokenizer(prompt).input_ids
    written = decode.greedy(model, ids, MOST_IDS)
    if len(written) < LEAST_IDS:
        return None
    logits = model(torch.tensor([ids + written]), use_cache=False, logits_to_keep=len(written) + 1).logits[0, :-1]
    best = logits.topk(2, -1).values
    gaps = [round(gap, 5) for gap in (best[:, 0] - best[:, 1]).tolist()]
    return {"messages": messages, "tools": tools, "enable_thinking": thinking, "prompt": prompt, "ids": ids, "greedy": written,
            "gap": gaps, "text": tokenizer.decode(written)}


def logits_of(model, head, ids):
    """Logits after the last rows of `ids`; the head's row t has seen ids up to t + 1 and predicts t + 2."""
    hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state
    embedded = model.model.embed_tokens(torch.tensor([ids[1:]]))
    rows = len(ids) - 1
    positions = torch.arange(rows)[None, None].expand(3, 1, rows)
    drafts = head(embedded, hidden[:, :-1], model.model.rotary_emb(embedded, positions), mtp.causal_mask(rows))
    last = slice(-LOGIT_ROWS, None)
    return {"ids": torch.tensor(ids), "logits": model.lm_head(hidden[0, last]).contiguous(), "mtp.logits": model.lm_head(drafts[0, last]).contiguous()}


def main():
    here = Path(__file__).resolve().parent
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--model", type=Path, default=here / "model", help="exported folder (default: model)")
    args.add_argument("--out", type=Path, default=here, help="folder to write to (default: beside this file)")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    model, head, _ = shipped.load(args.model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    long_enough = filter(None, (sample(model, tokenizer, *request) for request in REQUESTS))
    samples = list(itertools.islice(long_enough, WANTED))
    if len(samples) < WANTED:
        raise SystemExit(f"{len(samples)} answers have {LEAST_IDS} ids or more, {WANTED} are needed")
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in samples)
    (args.out / "samples.json").write_text(f"[\n{lines}\n]\n")
    text = tokenizer.apply_chat_template([{"role": "user", "content": STORY}], tokenize=False)
    ids = tokenizer(text).input_ids[:LOGIT_IDS]
    if len(ids) < LOGIT_IDS:
        raise SystemExit(f"the text has {len(ids)} ids, {LOGIT_IDS} are needed")
    save_file(logits_of(model, head, ids), args.out / "logits.safetensors")
    print(f"{len(samples)} samples, {sum(len(one['greedy']) for one in samples)} ids, smallest gap {min(min(one['gap']) for one in samples)}")


if __name__ == "__main__":
    main()
