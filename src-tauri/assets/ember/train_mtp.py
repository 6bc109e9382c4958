"""Trains Ember's MTP head on the trunk that ships: python train_mtp.py --model model --out mtp.safetensors --minutes 30

The trunk is read back from an exported folder and stays as it is. The head learns to write what the trunk would write:
its target is the trunk's own distribution one, two and three tokens further on, because that is what accepts a draft.
"""
import argparse
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import corpus
import mtp
import peers
import shipped
import train
from muon import Muon

ROWS, LENGTH = 12, 384
# One draft at first; from this share of the time on, drafts that follow drafts are learned too, with these weights.
DEEP_FROM = 0.6
DEPTH_WEIGHTS = (1.0, 0.5, 0.25)
# The frozen trunk's pass costs more than the head's step: each batch is kept and used again, at random, two times on average.
FRESH_EVERY = 3
KEPT = 300
SAVE_EVERY_S = 120.0


def optimizers(head):
    inner = [w for w in head.parameters() if w.ndim > 1 and min(w.shape[-2:]) >= 64]
    outer = [w for w in head.parameters() if w.ndim <= 1 or min(w.shape[-2:]) < 64]
    return [Muon(inner, lr=1.0, weight_decay=0.02), torch.optim.AdamW(outer, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)]


def first_head(model):
    """A copy of the trunk's last attention layer, fed with half the next token's embedding and half the hidden state."""
    head = mtp.start_from_trunk(model)
    half = 0.5 * torch.eye(model.config.hidden_size)
    with torch.no_grad():
        head.fc.weight.mul_(0.2).add_(torch.cat([half, half], 1))
    return head


def trunk_pass(model, ids):
    """The trunk's hidden states after its final norm [b, t, H], in bf16 to be kept."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.model(ids, use_cache=False).last_hidden_state.to(torch.bfloat16)


def loss_of(model, head, batch, mask, depths):
    """-> (loss, per depth: share of answer tokens where the head's first choice is the trunk's)."""
    ids, weights, hidden = batch
    count, length = ids.shape
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        teacher = model.lm_head(hidden).float()
    positions = torch.arange(length)[None, None].expand(3, count, length)
    loss, agree = 0.0, []
    for depth in range(1, depths + 1):
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model.model.embed_tokens(torch.roll(ids, -depth, 1))
            hidden = head(embedded, hidden, model.model.rotary_emb(embedded, positions), mask)
            student = model.lm_head(hidden)
        # Row t has seen ids up to t + depth, as the trunk's row t + depth has; both predict t + depth + 1.
        student, wanted = student[:, : length - depth - 1].float(), teacher[:, depth:-1]
        weight = weights[:, depth + 1 :]
        answer = weight == 1.0
        distance = F.cross_entropy(student.flatten(0, 1), wanted.softmax(-1).flatten(0, 1), reduction="none").view_as(weight)
        loss = loss + DEPTH_WEIGHTS[depth - 1] * (distance * weight).sum() / answer.sum()
        same = (student.detach().argmax(-1) == wanted.argmax(-1)) & answer
        agree.append((same.sum() / answer.sum()).item())
    return loss, agree


def save(path, head):
    tensors = {name: value.to(torch.bfloat16) for name, value in mtp.to_checkpoint(head.state_dict()).items()}
    save_file(tensors, path.with_suffix(".tmp"), metadata={"format": "pt"})
    os.replace(path.with_suffix(".tmp"), path)


def learn(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(2)
    rank = peers.start(args.processes, args.out.with_suffix(".peers"))
    model, shipped_head, tokenizer = shipped.load(args.model)
    model.requires_grad_(False)
    # The trunk only runs forward here; the fast attention gives the same result.
    model.set_attn_implementation("sdpa")
    head = (shipped_head if args.go_on else first_head(model)).train()
    opts = optimizers(head)
    state_file = args.out.with_suffix(".state.pt")
    progress = {"step": 0, "tokens": 0, "seconds": 0.0, "restarts": 0}
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        head.load_state_dict(state["head"])
        for opt, saved in zip(opts, state["opts"]):
            opt.load_state_dict(saved)
        progress = state["progress"] | {"restarts": state["progress"]["restarts"] + 1}
    train.smaller_chunks(32)
    rng = random.Random(5000 + 10_000 * rank + progress["restarts"])
    batches, kept = train.rows(tokenizer, rng, ROWS, LENGTH, corpus.DRAFTING), []
    mask, total, saved_at, history = mtp.causal_mask(LENGTH), args.minutes * 60, progress["seconds"], []

    def keep():
        state = {"head": head.state_dict(), "opts": [opt.state_dict() for opt in opts], "progress": progress}
        torch.save(state, state_file.with_suffix(".tmp"))
        os.replace(state_file.with_suffix(".tmp"), state_file)
        save(args.out, head)

    while (share := progress["step"] / args.steps if args.steps else progress["seconds"] / total) < 1:
        began = time.monotonic()
        train.set_rates(opts, args, progress["step"], share)
        if progress["step"] % FRESH_EVERY == 0 or not kept:
            ids, weights = next(batches)
            batch = ids, weights, trunk_pass(model, ids)
            kept.append(batch)
            del kept[:-KEPT]
        else:
            batch = rng.choice(kept)
        loss, agree = loss_of(model, head, batch, mask, 1 if share < DEEP_FROM else len(DEPTH_WEIGHTS))
        loss.backward()
        peers.average_gradients(head.parameters())
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        history.append(agree)
        progress["step"] += 1
        progress["tokens"] += ids.numel() * args.processes
        progress["seconds"] += peers.average(min(time.monotonic() - began, train.LONGEST_STEP_S))
        if progress["step"] % 20 == 0 and rank == 0:
            means = " ".join(f"{sum(depth) / len(depth):.3f}" for depth in zip(*history[-20:], strict=False))
            print(f"step {progress['step']} {share:5.1%} {progress['tokens'] / 1e6:.2f} M tokens, loss {loss.item():.3f}, agreement by depth {means}", flush=True)
        if progress["seconds"] - saved_at > SAVE_EVERY_S and rank == 0:
            keep()
            saved_at = progress["seconds"]
    if rank == 0:
        keep()
        print(f"done: {progress}", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--model", type=Path, required=True, help="exported folder with the trunk to draft for")
    args.add_argument("--out", type=Path, required=True, help="file for the trained head; its state lies beside it")
    args.add_argument("--minutes", type=float, default=30, help="training time, pauses not counted (default: 30)")
    args.add_argument("--steps", type=int, help="train for so many steps instead of --minutes, where the machine is shared and time says little")
    args.add_argument("--go-on", action="store_true", help="start from the head in --model instead of a new one")
    args.add_argument("--threads", type=int, default=1, help="CPU threads of each process (default: 1)")
    args.add_argument("--processes", type=int, default=os.cpu_count(), help="processes that share the work (default: one per core)")
    args.add_argument("--muon-lr", type=float, default=2e-3, help="step size of the matrices")
    args.add_argument("--adam-lr", type=float, default=1e-3, help="step size of everything else")
    learn(args.parse_args())


if __name__ == "__main__":
    main()
