"""Trains Ember's trunk on a CPU: python train.py --start FOLDER --out FOLDER --minutes 60

Starts from a checkpoint (or from nothing, with --fresh), learns from corpus.py, and can be stopped and started again
at any time: every minute everything needed to go on is written beside the old and put in its place.
"""
import argparse
import contextlib
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling

import chatml
import corpus
import peers
import rounding
import shipped
import tokenizer as tokens
from muon import Muon

# (share of the time at which the stage begins, rows, tokens per row, kinds)
PLANS = {
    # Copying first, then everything, then long texts.
    "all": [(0.0, 12, 384, corpus.COPYING), (0.3, 12, 384, corpus.MIXED), (0.8, 1, 2560, corpus.LONG)],
    # For a trunk that can do the rest: mostly calls of tools with names that are new in every conversation.
    "calls": [(0.0, 4, 768, corpus.CALLING), (0.85, 1, 2560, corpus.LONG)],
}
# A step that takes longer was interrupted (the machine slept, the process was stopped); no more than this is counted.
LONGEST_STEP_S = 20.0
SAVE_EVERY_S = 60.0
PROMPT_WEIGHT = 0.02
BALANCE_WEIGHT = 0.01
WARM_UP_STEPS = 40
IGNORED = -100


def fresh_config():
    """The shape of Ember: 5.7 M parameters, every part of a Qwen3.5 MoE, three delta nets to one attention."""
    rope = {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2], "mrope_interleaved": True}
    return Qwen3_5MoeTextConfig(
        vocab_size=tokens.SIZE, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=32, linear_num_key_heads=4, linear_num_value_heads=8,
        moe_intermediate_size=128, shared_expert_intermediate_size=128, num_experts=8, num_experts_per_tok=2,
        max_position_embeddings=32768, rope_parameters=rope, tie_word_embeddings=False, eos_token_id=2, bos_token_id=None, pad_token_id=0,
    )


def rows(tokenizer, rng, count, length, kinds=corpus.MIXED):
    """Endless batches (ids, weights) [count, length]: whole conversations, one after the other, each within one row."""
    ids, weights = [], []
    while True:
        while len(ids) < count * length:
            one, learn = [], []
            for text, wanted in chatml.render(corpus.conversation(rng, length, kinds)):
                piece = tokenizer.encode(text).ids
                one += piece
                learn += [1.0 if wanted else PROMPT_WEIGHT] * len(piece)
            one, learn = one[:length], learn[:length]
            room = length - len(ids) % length
            if len(one) > room:
                ids += [0] * room
                weights += [0.0] * room
            ids += one
            weights += learn
        cut = count * length
        yield torch.tensor(ids[:cut]).view(count, length), torch.tensor(weights[:cut]).view(count, length)
        ids, weights = ids[cut:], weights[cut:]


def loss_of(model, ids, weights):
    """-> (loss, share of the answer tokens that are the likeliest)."""
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, use_cache=False, output_router_logits=True)
    logits, target, weight = out.logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = F.cross_entropy(logits, target, reduction="none")
    answer = weight == 1.0
    loss = (losses * weight).sum() / answer.sum()
    # Keeps the experts evenly used: the mean router probabilities should be flat.
    usage = torch.stack([router.float().softmax(-1).mean(0) for router in out.router_logits])
    loss = loss + BALANCE_WEIGHT * usage.square().sum(-1).mean() * usage.shape[-1]
    hits = (logits.detach().argmax(-1) == target) & answer
    return loss, (hits.sum() / answer.sum()).item()


def optimizers(model):
    """Muon for the matrices inside the layers, AdamW for tables, vectors and the few-row projections."""
    inner, outer, vectors = [], [], []
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "conv1d" in name:
            vectors.append(weight)
        elif min(weight.shape[-2:]) < 64 or "embed_tokens" in name or "lm_head" in name:
            outer.append(weight)
        else:
            inner.append(weight)
    groups = [{"params": outer, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return [Muon(inner, lr=1.0), torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), fused=True)]


def set_rates(opts, args, step, share):
    """Linear warm-up, then linear to 3 % at the end of the time."""
    factor = min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - 0.97 * min(1.0, share))
    for opt, rate in zip(opts, (args.muon_lr, args.adam_lr)):
        for group in opt.param_groups:
            group["lr"] = rate * factor


def smaller_chunks(size):
    """The reference delta rule works in chunks of 64; with 32-wide heads, smaller ones cost less arithmetic."""
    rule = modeling.torch_chunk_gated_delta_rule
    if not hasattr(rule, "plain"):
        def chunked(*args, **kwargs):
            return chunked.plain(*args, **{**kwargs, "chunk_size": chunked.size})
        chunked.plain = rule
        modeling.torch_chunk_gated_delta_rule = chunked
    modeling.torch_chunk_gated_delta_rule.size = size


def compile_layers(model):
    """Everything but the routed experts, whose shapes change with every batch."""
    for layer in model.model.layers:
        layer.input_layernorm.compile()
        layer.post_attention_layernorm.compile()
        (layer.linear_attn if hasattr(layer, "linear_attn") else layer.self_attn).compile()
        layer.mlp.shared_expert.compile()


def save(path, model, opts, progress):
    """Writes the state beside the old one and swaps them, so that a kill at any moment loses a minute at most."""
    state = {"model": model.state_dict(), "opts": [opt.state_dict() for opt in opts], "progress": progress}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def started(args):
    """A new trunk, or that of --start: a trunk train.py wrote, or an exported folder, whose experts are what NVFP4 left of them."""
    if args.fresh:
        return Qwen3_5MoeForCausalLM(fresh_config())
    if "quantization_config" in json.loads((args.start / "config.json").read_text()):
        return shipped.load(args.start)[0]
    return Qwen3_5MoeForCausalLM.from_pretrained(args.start, dtype=torch.float32)


def train(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rank = peers.start(args.processes, args.out / "peers")
    tokenizer = tokens.load_or_train(args.out / "tokenizer.json") if args.fresh else Tokenizer.from_file(str(args.start / "tokenizer.json"))
    tokenizer.save(str(args.out / "tokenizer.json"))
    model = started(args).train()
    # The same result as the eager attention, with less memory for long rows.
    model.set_attn_implementation("sdpa")
    opts = optimizers(model)
    state_file = args.out / "state.pt"
    progress = {"step": 0, "tokens": 0, "seconds": 0.0, "restarts": 0}
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"]):
            opt.load_state_dict(saved)
        progress = state["progress"] | {"restarts": state["progress"]["restarts"] + 1}
    stages = PLANS[args.plan]
    total, stage, batches, hits, saved_at = args.minutes * 60, None, None, [], progress["seconds"]
    while (share := progress["step"] / args.steps if args.steps else progress["seconds"] / total) < 1:
        began = time.monotonic()
        now = max(i for i, (begins, *_) in enumerate(stages) if share >= begins)
        if now != stage:
            stage = now
            _, count, length, kinds = stages[stage]
            batches = rows(tokenizer, random.Random(1000 + 10_000 * rank + 100 * progress["restarts"] + stage), count, length, kinds)
            smaller_chunks(32 if length < 1024 else 64)
            # Compiling the long stage's many chunks takes longer than it saves.
            if args.compile and length < 1024:
                compile_layers(model)
            else:
                torch.compiler.set_stance("force_eager")
        set_rates(opts, args, progress["step"], share)
        ids, weights = next(batches)
        with rounding.experts_rounded(model) if share >= args.round_from else contextlib.nullcontext():
            loss, hit = loss_of(model, ids, weights)
            loss.backward()
        peers.average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        hits.append(hit)
        progress["step"] += 1
        progress["tokens"] += ids.numel() * args.processes
        progress["seconds"] += peers.average(min(time.monotonic() - began, LONGEST_STEP_S))
        if progress["step"] % 20 == 0 and rank == 0:
            speed = ids.numel() * args.processes / (time.monotonic() - began)
            print(f"step {progress['step']} {share:5.1%} {progress['tokens'] / 1e6:.2f} M tokens, loss {loss.item():.3f}, "
                  f"answer tokens right {sum(hits[-20:]) / len(hits[-20:]):.4f}, {speed:.0f} tokens/s", flush=True)
        if progress["seconds"] - saved_at > SAVE_EVERY_S and rank == 0:
            save(state_file, model, opts, progress)
            saved_at = progress["seconds"]
    if rank == 0:
        save(state_file, model, opts, progress)
        model.save_pretrained(args.out)
        print(f"done: {progress}", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--start", type=Path, help="Hugging Face folder to go on from")
    args.add_argument("--fresh", action="store_true", help="start from nothing instead; trains a tokenizer too")
    args.add_argument("--out", type=Path, required=True, help="folder for state.pt and the trained checkpoint")
    args.add_argument("--plan", choices=list(PLANS), default="all", help="what to learn from (default: all)")
    args.add_argument("--round-from", type=float, default=1.0, help="share of the time from which the experts are rounded to NVFP4 (default: 1, never)")
    args.add_argument("--minutes", type=float, default=60, help="training time, pauses not counted (default: 60)")
    args.add_argument("--steps", type=int, help="train for so many steps instead of --minutes, where the machine is shared and time says little")
    args.add_argument("--threads", type=int, default=1, help="CPU threads of each process (default: 1)")
    args.add_argument("--processes", type=int, default=os.cpu_count(), help="processes that share the work (default: one per core)")
    args.add_argument("--muon-lr", type=float, default=2e-3, help="step size of the inner matrices")
    args.add_argument("--adam-lr", type=float, default=1e-3, help="step size of everything else")
    args.add_argument("--compile", action="store_true", help="torch.compile the layers: 1.6 times as fast after two minutes")
    args = args.parse_args()
    if not args.fresh and not args.start:
        raise SystemExit("--start FOLDER or --fresh is needed")
    train(args)


if __name__ == "__main__":
    main()
