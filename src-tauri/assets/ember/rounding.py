"""Training with the weights that ship: the experts are rounded to NVFP4 for the pass, the step goes to what was rounded.

Gradients of the rounded weights are taken as those of the exact ones (straight-through). Used by train.py, so that export
costs nothing that training has not seen.
"""
from contextlib import contextmanager

import torch

import nvfp4


def expert_weights(model):
    """-> [(parameter, number of matrices export.py packs it as)]."""
    out = []
    for layer in model.model.layers:
        experts, shared = layer.mlp.experts, layer.mlp.shared_expert
        out += [(experts.gate_up_proj, 2 * len(experts.gate_up_proj)), (experts.down_proj, len(experts.down_proj))]
        out += [(linear.weight, 1) for linear in (shared.gate_proj, shared.up_proj, shared.down_proj)]
    return out


def rounded(weight, matrices):
    """The values `weight` [..., n, k] has after packing as `matrices` matrices of equal size."""
    columns = weight.shape[-1]
    out = []
    for matrix in weight.reshape(matrices, -1, columns):
        packed = nvfp4.quantize(matrix)
        out.append(nvfp4.dequantize(packed["weight_packed"], packed["weight_scale"], packed["weight_global_scale"]))
    return torch.stack(out).view_as(weight)


@contextmanager
def experts_rounded(model):
    """Inside, the model computes with rounded experts; afterwards it has its exact ones again."""
    with torch.no_grad():
        exact = [(weight, weight.detach().clone()) for weight, _ in expert_weights(model)]
        for weight, matrices in expert_weights(model):
            weight.copy_(rounded(weight, matrices))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, kept in exact:
                weight.copy_(kept)
