"""Greedy decoding with transformers, and MTP rounds beside it. Used by evaluate.py and samples.py."""
import torch

import mtp

END = (2, 0)
END_OF_TURN = 2


def greedy(model, ids, limit):
    """The ids transformers writes after `ids`, one at a time through the cache, up to and with the end of the turn."""
    cache, step, out = None, torch.tensor([ids]), []
    while len(out) < limit:
        result = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = result.past_key_values
        out.append(result.logits[0, -1].argmax().item())
        if out[-1] in END:
            break
        step = torch.tensor([[out[-1]]])
    return out


def would_write(model, ids, answer):
    """Whether greedy decoding after `ids` gives exactly `answer`: one pass instead of many, the same question."""
    logits = model(torch.tensor([ids + answer]), use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
    return logits.argmax(-1).tolist() == answer


def draft_rounds(model, head, ids, answer, depth):
    """Speculative rounds over a greedy answer -> one number of accepted drafts per round.

    A round: the trunk has just written answer[i]; the head drafts up to `depth` tokens, each fed back with its own
    hidden state; drafts are accepted up to the first that differs from what the trunk writes. The round's own rows are
    thrown away afterwards, as an engine does that refills the head's KV from the trunk's hidden states.
    """
    sequence = torch.tensor([ids + answer])
    hidden = model.model(sequence, use_cache=False).last_hidden_state
    rounds, at = [], 0
    while at < len(answer) - 1:
        known = len(ids) + at + 1
        tokens, states = sequence[:, 1:known].tolist()[0], hidden[:, : known - 1]
        accepted = 0
        # No more drafts than there are tokens left to compare them with.
        for _ in range(min(depth, len(answer) - 1 - at)):
            rows = len(tokens)
            embedded = model.model.embed_tokens(torch.tensor([tokens]))
            positions = torch.arange(rows)[None, None].expand(3, 1, rows)
            out = head(embedded, states, model.model.rotary_emb(embedded, positions), mtp.causal_mask(rows))
            draft = model.lm_head(out[:, -1]).argmax(-1).item()
            if draft != answer[at + accepted + 1]:
                break
            accepted += 1
            tokens, states = tokens + [draft], torch.cat([states, out[:, -1:]], 1)
        rounds.append(accepted)
        at += accepted + 1
    return rounds
