import math

import torch

from fedsc.models.transformer import Stack, block_flops, blocks, init_blocks, last_attention

STACK = Stack(depth=2, heads=2, width=8)


def weights():
    generator = torch.Generator().manual_seed(0)
    drawn = init_blocks("encoder", STACK, generator)
    # Biases and norms away from their start, so that forgetting one would show.
    return {n: w + 0.1 * torch.randn(w.shape, generator=generator) for n, w in drawn.items()}


def slow_block(w, x, block, heads):
    """One cell, explicit attention head by head, token by token; also the attention."""
    norm = torch.nn.functional.layer_norm
    width = x.shape[1]
    size = width // heads
    y = norm(x, (width,), w[f"{block}.before_attention.weight"],
             w[f"{block}.before_attention.bias"], 1e-6)  # fmt: skip
    qkv = y @ w[f"{block}.qkv.weight"].T + w[f"{block}.qkv.bias"]
    mixed, attentions = torch.zeros_like(x), []
    for head in range(heads):
        here = slice(head * size, (head + 1) * size)
        q, k, v = (qkv[:, part * width : (part + 1) * width][:, here] for part in range(3))
        attention = torch.zeros(len(x), len(x))
        for i in range(len(x)):
            scores = torch.tensor([float(q[i] @ k[j]) / math.sqrt(size) for j in range(len(x))])
            attention[i] = scores.exp() / scores.exp().sum()
        mixed[:, here] = attention @ v
        attentions.append(attention)
    x = x + mixed @ w[f"{block}.mix.weight"].T + w[f"{block}.mix.bias"]
    y = norm(x, (width,), w[f"{block}.before_mlp.weight"], w[f"{block}.before_mlp.bias"], 1e-6)
    y = torch.nn.functional.gelu(y @ w[f"{block}.up.weight"].T + w[f"{block}.up.bias"])
    x = x + y @ w[f"{block}.down.weight"].T + w[f"{block}.down.bias"]
    return x, torch.stack(attentions)


def test_blocks_equal_explicit_attention():
    w, x = weights(), torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    found, attention = blocks(w, x, "encoder", STACK), last_attention(w, x, "encoder", STACK)
    for cell in range(3):
        slow, _ = slow_block(w, x[cell], "encoder.0", 2)
        slow, slow_attention = slow_block(w, slow, "encoder.1", 2)
        slow = torch.nn.functional.layer_norm(
            slow, (8,), w["encoder.end.weight"], w["encoder.end.bias"], 1e-6
        )
        torch.testing.assert_close(found[cell], slow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention[cell], slow_attention.mean(0), rtol=1e-4, atol=1e-5)


def test_attention_rows_sum_to_one():
    attention = last_attention(weights(), torch.randn(2, 7, 8), "encoder", STACK)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, 7))


def test_recomputation_changes_nothing():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for recompute in (False, True):
        w = {name: weight.requires_grad_(True) for name, weight in weights().items()}
        y = blocks(w, x, "encoder", STACK, recompute=recompute)
        y.square().sum().backward()
        found.append([y.detach(), *(weight.grad for weight in w.values())])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def test_block_flops_of_the_paper_encoder():
    # 12 blocks, 65 tokens, D = 768: 12·D² weights a block and two products of 65 × 65 × D.
    assert block_flops(Stack(12, 12, 768), 65) == 12 * (2 * 65 * 12 * 768**2 + 4 * 65**2 * 768)
