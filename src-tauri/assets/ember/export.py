"""Writes the checkpoint that ships: python export.py --trunk DIR --out model

Reads a trained trunk (a Hugging Face folder) and its MTP head, packs the routed and shared experts as NVFP4,
keeps the rest in bf16 (A_log in f32, as Hugging Face writes it), and adds config, tokenizer and template.
"""
import argparse
import json
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3_5MoeForCausalLM

import mtp
import nvfp4

HERE = Path(__file__).resolve().parent
EXPERT = re.compile(r"^model\..*\.(mlp\.experts\.\d+|mlp\.shared_expert)\.(gate|up|down)_proj\.weight$")
KEEP_F32 = ("A_log",)
# Everything that is a Linear and not an expert stays bf16; MTP too, as in RedHat's Qwen3.5 checkpoints.
IGNORE = ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$", "re:.*linear_attn.*", "re:.*self_attn.*", "re:^mtp.*"]
LIMIT_BYTES = 12_000_000


def quantization_config():
    weights = {
        "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": nvfp4.GROUP, "symmetric": True,
        "dynamic": False, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn",
    }
    group = {
        "targets": ["Linear"], "input_activations": None, "output_activations": None,
        "format": "nvfp4-pack-quantized", "weights": weights,
    }
    return {
        "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "quantization_status": "compressed",
        "kv_cache_scheme": None, "config_groups": {"group_0": group}, "ignore": IGNORE,
    }


def packed_tensors(tensors):
    """Checkpoint tensors -> the tensors that ship."""
    out = {}
    for name, value in tensors.items():
        if EXPERT.match(name):
            stem = name.removesuffix("weight")
            out |= {stem + part: tensor for part, tensor in nvfp4.quantize(value).items()}
        elif any(name.endswith(kept) for kept in KEEP_F32):
            out[name] = value.float().contiguous()
        else:
            out[name] = value.to(torch.bfloat16).contiguous()
    return out


def model_config(trunk):
    config = json.loads((trunk / "config.json").read_text())
    config |= {"dtype": "bfloat16", "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}
    config["quantization_config"] = quantization_config()
    return config


def write_tokenizer(trunk, out):
    """As Qwen marks them: the ChatML tokens are special, think and tool tags are ordinary added tokens."""
    tokenizer = json.loads((trunk / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"].startswith("<|")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32768, "clean_up_tokenization_spaces": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "add_bos_token": False, "add_prefix_space": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def head_tensors(trunk, head):
    """The trained head, or one that only has the right shapes when there is none yet."""
    if head.exists():
        return load_file(head)
    print(f"{head} is missing: the MTP head is untrained")
    torch.manual_seed(3)
    model = Qwen3_5MoeForCausalLM.from_pretrained(trunk, dtype=torch.float32)
    return mtp.to_checkpoint(mtp.start_from_trunk(model).state_dict())


def mean_of(tensors, others):
    """The mean of two trunks of one training: what the last steps gained, without all that they forgot."""
    return {name: (value.float() + others[name].float()) / 2 for name, value in tensors.items()}


def export(trunk, head, out, other=None):
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(trunk / "model.safetensors")
    if other:
        tensors = mean_of(tensors, load_file(other / "model.safetensors"))
    tensors |= head_tensors(trunk, head)
    # A whole new file replaces the old one, so a reader never sees half of it.
    save_file(packed_tensors(tensors), out / "model.safetensors.tmp", metadata={"format": "pt"})
    os.replace(out / "model.safetensors.tmp", out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(model_config(trunk), indent=1) + "\n")
    generation = {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    write_tokenizer(trunk, out)
    shutil.copyfile(HERE / "chat_template.jinja", out / "chat_template.jinja")
    size = sum(f.stat().st_size for f in out.iterdir())
    print(f"{out}: {size:,} bytes in all")
    if size > LIMIT_BYTES:
        raise SystemExit(f"{size:,} bytes is more than the {LIMIT_BYTES:,} that may ship")


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--trunk", type=Path, required=True, help="folder with the trained trunk")
    args.add_argument("--mean-with", type=Path, help="an earlier trunk of the same training: their mean is exported")
    args.add_argument("--mtp", type=Path, help="trained head (default: TRUNK/mtp.safetensors)")
    args.add_argument("--out", type=Path, default=HERE / "model", help="folder to write (default: model)")
    args = args.parse_args()
    export(args.trunk, args.mtp or args.trunk / "mtp.safetensors", args.out, args.mean_with)


if __name__ == "__main__":
    main()
