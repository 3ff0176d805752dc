"""FedSC with another d of eq. (3): over the encoder alone, or over the whole model.

The pull measures the tensors of the networks ``encoder`` and ``projector``. So an objective chooses
what counts by the names it gives its tensors; it trains the same.
"""

from dataclasses import dataclass

from torch import Generator, Tensor

from fedsc.models.mlp import Weights
from fedsc.options import MethodOptions
from fedsc.ssl import byol
from fedsc.ssl.objective import Descend, Objective, State


@dataclass(frozen=True)
class _Renamed:
    """BYOL whose tensors of one network go by another name outside the lab."""

    network: str
    name: str

    def init(self, n_genes: int, options: MethodOptions, generator: Generator) -> Weights:
        return _renamed(byol.init(n_genes, options, generator), self.network, self.name)

    def begin(
        self,
        shared: Weights,
        private: Weights,
        n_cells: int,
        options: MethodOptions,
        generator: Generator,
    ) -> State:
        inside = _renamed(shared, self.name, self.network)
        state = byol.begin(inside, private, n_cells, options, generator)
        return State(_renamed(state.shared, self.network, self.name), state.private)

    def step(self, state: State, views: Tensor, descend: Descend, options: MethodOptions) -> Tensor:
        # Another dict of the same tensors, which training moves in place.
        inside = State(_renamed(state.shared, self.name, self.network), state.private)
        return byol.step(inside, views, descend, options)


def _renamed(weights: Weights, network: str, name: str) -> Weights:
    return {
        f"{name}.{n.removeprefix(f'{network}.')}" if n.startswith(f"{network}.") else n: tensor
        for n, tensor in weights.items()
    }


def _objective(network: str, name: str) -> Objective:
    renamed = _Renamed(network, name)
    return Objective(renamed.init, renamed.begin, renamed.step)


ENCODER = _objective("projector", "head")
WHOLE = _objective("predictor", "projector.predictor")
