"""Loads an exported folder the way an engine should: packed experts expanded exactly, everything in f32.

Used by evaluate.py and samples.py. transformers itself cannot be trusted with NVFP4 experts (it expands only
nn.Linear, and its experts are fused parameters), so the expansion happens here, before it sees the weights.
"""
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen3_5MoeForCausalLM

import mtp
import nvfp4


def expanded(tensors):
    """Shipped tensors -> {checkpoint name: f32 weight}."""
    out = {}
    for name, value in tensors.items():
        stem, _, part = name.rpartition(".")
        if part == "weight_packed":
            out[stem + ".weight"] = nvfp4.dequantize(value, tensors[stem + ".weight_scale"], tensors[stem + ".weight_global_scale"])
        elif part not in ("weight_scale", "weight_global_scale"):
            out[name] = value.float()
    return out


def load(folder):
    """-> (model, head, tokenizer) on the CPU in f32, ready for inference."""
    folder = Path(folder)
    tensors = expanded(load_file(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    trunk = {name: value.contiguous() for name, value in tensors.items() if not name.startswith("mtp.")}
    with tempfile.TemporaryDirectory() as plain:
        Path(plain, "config.json").write_text(json.dumps(config))
        save_file(trunk, Path(plain, "model.safetensors"), metadata={"format": "pt"})
        model = Qwen3_5MoeForCausalLM.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager").eval()
    return model, mtp.from_checkpoint(tensors, model.config), Tokenizer.from_file(str(folder / "tokenizer.json"))
