"""Ember's multi-token prediction head: the module, its start values, its tensor names.

Wiring and names are those of Qwen3.5 (vLLM qwen3_5_mtp.py):
    u_t = fc([RMS0(embed(x_t+1)); RMS0(h_t)])   h_t after the trunk's final norm
    m_t = RMS0(layer(u_t))                      one full-attention MoE layer with its own KV
    lm_head(m_t) predicts x_t+2; deeper drafts feed m_t back in the place of h_t.
train_mtp.py trains it, evaluate.py measures it, export.py ships it.
"""
import torch
from torch import nn
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeDecoderLayer, Qwen3_5MoeRMSNorm


class Mtp(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * size, size, bias=False)
        self.pre_fc_norm_embedding = Qwen3_5MoeRMSNorm(size, eps)
        self.pre_fc_norm_hidden = Qwen3_5MoeRMSNorm(size, eps)
        self.layers = nn.ModuleList([Qwen3_5MoeDecoderLayer(config, full_attention_index(config))])
        self.norm = Qwen3_5MoeRMSNorm(size, eps)

    def forward(self, embedded, hidden, rotary, mask):
        """embedded, hidden [b, t, H] -> [b, t, H]; mask [1, 1, t, t] is added to the scores."""
        joined = torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1)
        out = self.layers[0](self.fc(joined), position_embeddings=rotary, attention_mask=mask)
        return self.norm(out[0] if isinstance(out, tuple) else out)


def full_attention_index(config):
    """The last full-attention layer: the one nearest to the head, and the one the MTP layer starts from."""
    return max(i for i, kind in enumerate(config.layer_types) if kind == "full_attention")


def start_from_trunk(model):
    """A head whose layer is a copy of the trunk's last attention layer and whose fc is random."""
    mtp = Mtp(model.config)
    mtp.layers[0].load_state_dict(model.model.layers[full_attention_index(model.config)].state_dict())
    nn.init.normal_(mtp.fc.weight, std=model.config.hidden_size ** -0.5 / 2)
    return mtp


def to_checkpoint(state):
    """Module names -> checkpoint names: `mtp.` in front, fused experts split."""
    out = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            half, stem = value.shape[1] // 2, "mtp." + name.removesuffix("gate_up_proj")
            for expert, fused in enumerate(value):
                out[f"{stem}{expert}.gate_proj.weight"] = fused[:half].contiguous()
                out[f"{stem}{expert}.up_proj.weight"] = fused[half:].contiguous()
        elif name.endswith("experts.down_proj"):
            stem = "mtp." + name.removesuffix("down_proj")
            for expert, matrix in enumerate(value):
                out[f"{stem}{expert}.down_proj.weight"] = matrix.contiguous()
        else:
            out["mtp." + name] = value.contiguous()
    return out


def from_checkpoint(tensors, config):
    """Checkpoint names -> a head in f32."""
    mtp = Mtp(config)
    state = {}
    for name in mtp.state_dict():
        stem, _, part = name.rpartition(".")
        get = lambda expert, kind: tensors[f"mtp.{stem}.{expert}.{kind}.weight"].float()
        if part == "gate_up_proj":
            state[name] = torch.stack([torch.cat([get(e, "gate_proj"), get(e, "up_proj")]) for e in range(config.num_experts)])
        elif part == "down_proj" and stem.endswith("experts"):
            state[name] = torch.stack([get(e, "down_proj") for e in range(config.num_experts)])
        else:
            state[name] = tensors["mtp." + name].float()
    mtp.load_state_dict(state)
    return mtp.eval()


def causal_mask(rows, device="cpu"):
    """[1, 1, rows, rows]: zero on and below the diagonal, -inf above."""
    return torch.full((rows, rows), float("-inf"), device=device).triu(1)[None, None]
