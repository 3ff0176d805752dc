import pytest
import torch

from fedsc.sgd import SGD


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_steps_are_those_of_torch_to_the_bit(momentum, weight_decay):
    def parameters():
        generator = torch.Generator().manual_seed(0)
        shapes = (7, 5), (7,), (3,)
        return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]

    ours, theirs = parameters(), parameters()
    sgd = SGD(ours, 0.032, momentum, weight_decay)
    reference = torch.optim.SGD(
        theirs, lr=0.032, momentum=momentum, weight_decay=weight_decay, fused=True
    )
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(1))
    for step in range(5):
        for optimizer, (matrix, bias, _) in ((sgd, ours), (reference, theirs)):
            optimizer.zero_grad()
            # The third parameter has no gradient, as a predictor that is switched off.
            ((x @ matrix.T + bias) * (step + 1)).square().mean().backward()
            optimizer.step()
    for mine, torchs in zip(ours, theirs, strict=True):
        assert torch.equal(mine, torchs)
    assert not torch.equal(ours[0], parameters()[0])
    assert torch.equal(ours[2], parameters()[2])
