"""What the tests of the objectives share: an optimiser and an obvious network."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedsc.models.mlp import Weights
from fedsc.ssl.objective import Descend, State


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def sgd() -> Callable[..., Descend]:
    """Give a lab's ``descend`` with plain SGD; options go to ``torch.optim.SGD``."""

    def descend_of(state: State, lr: float = 0.05, **options: float) -> Descend:
        optimizer = torch.optim.SGD(state.trainable(), lr=lr, **options)

        def descend(loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return descend

    return descend_of


@pytest.fixture
def double() -> Callable[[Weights], Weights]:
    """Copy weights as float64, so that two ways to one result agree closely."""
    return lambda weights: {name: tensor.detach().double() for name, tensor in weights.items()}


class Network(nn.Module):
    """The batch-norm network of FedSC §4.1 from torch's own layers, float64."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name in ("encoder", "projector", "predictor"):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            i = 0
            while f"{name}.{i}.weight" in weights:
                if i > 0:
                    if f"{name}.{i - 1}.norm.weight" in weights:
                        layers[f"{i - 1}_norm"] = nn.BatchNorm1d(
                            weights[f"{name}.{i - 1}.norm.weight"].shape[0]
                        )
                    layers[f"{i - 1}_relu"] = nn.ReLU()
                outputs, inputs = weights[f"{name}.{i}.weight"].shape
                layers[f"{i}"] = nn.Linear(inputs, outputs)
                i += 1
            self.add_module(name, nn.Sequential(layers))
        self.double()
        with torch.no_grad():
            for name, tensor in self.as_weights().items():
                tensor.copy_(weights[name])

    def as_weights(self) -> Weights:
        """Give parameters and statistics under the project's names."""
        return {
            name.replace("_norm", ".norm"): tensor
            for name, tensor in self.state_dict(keep_vars=True).items()
            if not name.endswith("num_batches_tracked")
        }

    def project(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))

    def predict(self, x: Tensor) -> Tensor:
        return self.predictor(self.project(x))


@pytest.fixture
def network() -> type[Network]:
    return Network
