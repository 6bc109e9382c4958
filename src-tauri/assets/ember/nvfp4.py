"""NVFP4 as compressed-tensors stores it: quantise, pack, and expand again without loss.

Used by export.py (writes the shipped checkpoint) and shipped.py (reads it back for scoring).
A weight [n, k] becomes three tensors (layout: compressed-tensors 0.20, compressors/nvfp4):

    weight_packed        u8   [n, k/2]   two E2M1 codes per byte, the even column in the low nibble
    weight_scale         e4m3 [n, k/16]  one scale per 16 columns
    weight_global_scale  f32  [1]        a divisor: w = E2M1[code] * (scale / global)
"""
import torch

GROUP = 16
E2M1_MAX, E4M3_MAX = 6.0, 448.0
E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
# Halfway points between neighbouring magnitudes: a value's code is how many of them it exceeds.
_MIDPOINTS = torch.tensor([.25, .75, 1.25, 1.75, 2.5, 3.5, 5.])
# A block's largest value need not land on 6: the scale with the smallest squared error is kept.
_TARGETS = (6.0, 5.5, 5.0, 4.6, 4.3, 4.0)


def encode(values):
    """The nearest E2M1 code (0..15) of each value; magnitudes past 6 saturate."""
    magnitude = torch.bucketize(values.abs().contiguous(), _MIDPOINTS)
    return (magnitude + 8 * (values < 0)).to(torch.uint8)


def quantize(weight):
    """[n, k] float (k divisible by 16) -> {weight_packed, weight_scale, weight_global_scale}."""
    rows, columns = weight.shape
    if columns % GROUP:
        raise ValueError(f"NVFP4 needs a multiple of {GROUP} columns, found {columns}")
    blocks = weight.float().view(rows, -1, GROUP)
    amax = blocks.abs().amax(-1)
    global_scale = E4M3_MAX * E2M1_MAX / weight.float().abs().max().clamp_min(1e-12)
    best_error = best_scale = best_codes = None
    for target in _TARGETS:
        scale = (amax / target * global_scale).clamp(max=E4M3_MAX).to(torch.float8_e4m3fn)
        scale = torch.where(scale.float() == 0, torch.full_like(amax, 2.0 ** -9), scale.float())
        step = (scale / global_scale)[..., None]
        codes = encode(blocks / step)
        error = (E2M1[codes.long()] * step - blocks).square().sum(-1)
        if best_error is None:
            best_error, best_scale, best_codes = error, scale, codes
            continue
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_codes = torch.where(better[..., None], codes, best_codes)
    codes = best_codes.view(rows, columns)
    return {
        "weight_packed": (codes[:, 0::2] | (codes[:, 1::2] << 4)).contiguous(),
        "weight_scale": best_scale.to(torch.float8_e4m3fn).contiguous(),
        "weight_global_scale": global_scale.view(1).float(),
    }


def dequantize(packed, scale, global_scale):
    """The exact f32 weight [n, k] of a packed one."""
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()
    return E2M1[codes] * (scale.float() / global_scale).repeat_interleave(GROUP, 1)
