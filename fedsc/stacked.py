"""Labs trained together on a GPU: every tensor has a leading dimension of labs.

Labs are sorted by their number of batches, most first, so those that have a batch in a step are
always the first ones. A step sees the tensors of these alone; nothing of the others can move
(``docs/decisions/0023-stacked-labs.md``).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedsc.cuda_graph import capture
from fedsc.data.preprocess import CellMatrix
from fedsc.federated.averaging import Arrays
from fedsc.models.mlp import Weights
from fedsc.options import MethodOptions, TrainingOptions
from fedsc.rng import derive_seed, torch_generator
from fedsc.sgd import SGD
from fedsc.ssl.objective import Objective, State
from fedsc.ssl.views import device_views
from fedsc.threads import one_thread
from fedsc.training import (
    LOOKED_AT,
    Update,
    batch_sizes,
    batches,
    begin,
    kept_apart,
    learning_rate,
    spread,
)

Views = Callable[[Tensor, float, torch.Generator], Tensor]
"""Draw two views of cells (labs, cells, genes), as :func:`fedsc.ssl.views.device_views` does."""

_ROWS = 4096  # cells prepared at a time


def why_not(
    objective: Objective,
    cells: Sequence[CellMatrix],
    method: MethodOptions,
    training: TrainingOptions,
    device: str,
) -> str | None:
    """Say why labs have to train one after the other; ``None`` when they can train stacked."""
    if not objective.stacks:
        return "the objective has no stacked form"
    if training.optimizer != "sgd":
        return f"{training.optimizer} counts the steps of each lab by itself"
    if method.norm == "batch" and any(own.n_cells < 2 for own in cells):
        return "a lab has one cell, and batch norm needs two"
    if torch.device(device).type == "cuda":
        wanted = sum(own.n_cells * own.n_genes for own in cells) * 4 / 1e9
        free = torch.cuda.mem_get_info(device)[0] / 1e9
        if wanted > free / 2:
            return f"their cells take {wanted:.1f} GB of the GPU, which has {free:.1f} free"
    return None


class Stack:
    """Labs whose cells lie on a device, to be trained round after round.

    Parameters
    ----------
    objective
        What is trained; ``stacks``.
    cells
        Of each lab, by name; :func:`why_not` has no objection.
    method, training
        As :func:`fedsc.training.train_lab` takes them.
    device
        Torch device.
    graphs
        Record a step as a CUDA graph, for each number of labs that take one together; as an
        attribute, whether that worked.
    views
        Draws the views of a step.
    """

    def __init__(
        self,
        objective: Objective,
        cells: Mapping[str, CellMatrix],
        method: MethodOptions,
        training: TrainingOptions,
        *,
        device: str,
        graphs: bool = False,
        views: Views = device_views,
    ) -> None:
        sizes = {lab: batch_sizes(own.n_cells, training.batch_size) for lab, own in cells.items()}
        self.labs = sorted(cells, key=lambda lab: (-len(sizes[lab]), lab))
        self.graphs = graphs
        self._objective, self._method, self._training = objective, method, training
        self._device, self._views = device, views
        self._sizes = [sizes[lab] for lab in self.labs]
        steps, width = len(self._sizes[0]), max(max(own) for own in self._sizes)
        self._together = [sum(len(own) > step for own in self._sizes) for step in range(steps)]

        n_cells = [cells[lab].n_cells for lab in self.labs]
        self._first_row = np.cumsum([0, *n_cells])
        self._n_cells = torch.tensor(n_cells, device=device)
        self._cells = _put([cells[lab] for lab in self.labs], device)
        shares = torch.zeros(steps, len(n_cells), width)
        for i, own in enumerate(self._sizes):
            for step, size in enumerate(own):
                shares[step, i, :size] = 1 / size
        self._shares = shares.to(device)

        # A step reads these, so that it can be recorded.
        self._rows = torch.zeros(len(n_cells), width, dtype=torch.int64, device=device)
        self._share = self._shares[0].clone()
        self._rate = torch.zeros((), device=device)
        self._total = torch.zeros(len(n_cells), dtype=torch.float64, device=device)
        self._generator = torch.Generator(device)
        self._state: State | None = None
        self._velocities: list[Tensor] = []
        self._steps: dict[int, Callable[[], None]] = {}

    def train(
        self,
        starts: Mapping[str, Arrays],
        private: Mapping[str, Arrays],
        *,
        seed: int,
        round_: int,
    ) -> dict[str, Update]:
        """Train all labs for a round, as :func:`fedsc.training.train_lab` trains one.

        Batches are those of the labs alone; masks come from the device's generator, so they depend
        on the device and on which labs are stacked.

        Parameters
        ----------
        starts
            Received weights of each lab; not modified.
        private
            What each lab kept from its last round; not modified.
        seed
            Of the run.
        round_
            Number of the round, from 1.

        Returns
        -------
        dict
            Of each lab; arrays are on the CPU.
        """
        with one_thread():
            begun = [
                begin(
                    self._objective, starts[lab], private[lab], self._n_cells_of(i),
                    self._method, seed=seed, lab=lab, round_=round_,
                )
                for i, lab in enumerate(self.labs)
            ]  # fmt: skip
            if self._state is None:
                self._state = stack(begun, self._device)
                self._velocities = [torch.zeros_like(w) for w in self._state.trainable()]
                self._prepare_steps(self._state)
            self._load(self._state, begun, seed, round_)
            self._run(self._orders(seed, round_))
            return self._updates(self._state, begun, starts)

    def _n_cells_of(self, i: int) -> int:
        return int(self._first_row[i + 1] - self._first_row[i])

    def _prepare_steps(self, state: State) -> None:
        """Make the step of each number of labs; recording one moves tensors, so load them after."""
        self._steps = {k: self._step(state, k) for k in set(self._together)}
        if not self.graphs:
            return
        recorded = {}
        for k, step in self._steps.items():
            replay = capture(step, self._generator)
            if replay is None:
                self.graphs = False
                return
            recorded[k] = replay
        self._steps = recorded

    def _step(self, state: State, k: int) -> Callable[[], None]:
        """Give what takes a step of the first k labs."""
        own = State(
            _of_first(state.shared, k),
            _of_first(state.private, k),
            self._share[:k],
            self._n_cells[:k],
        )
        chosen = self._training
        velocities = [velocity[:k] for velocity in self._velocities]
        optimizer = SGD(
            own.trainable(), self._rate, chosen.momentum, chosen.weight_decay, velocities
        )
        rows, total = self._rows[:k], self._total[:k]

        def descend(loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def step() -> None:
            x = self._cells.index_select(0, rows.flatten()).view(*rows.shape, -1)
            views = self._views(x, self._method.mask_rate, self._generator)
            total.add_(self._objective.step(own, views, descend, self._method))

        return step

    @torch.no_grad()
    def _load(self, state: State, begun: Sequence[State], seed: int, round_: int) -> None:
        now = stack(begun, "cpu")
        for part, own in ((state.shared, now.shared), (state.private, now.private)):
            for name, tensor in part.items():
                tensor.copy_(own[name])
        for tensor in (*self._velocities, self._total):
            tensor.zero_()
        self._rate.fill_(learning_rate(self._training, round_))
        self._generator.manual_seed(derive_seed(seed, "masks", *self.labs, round_))

    def _orders(self, seed: int, round_: int) -> Tensor:
        """Tell the rows of all batches, int64 (epochs, steps, labs, cells); the last fills up."""
        epochs = self._training.local_epochs
        nobody = len(self._cells) - 1
        orders = np.full((epochs, *self._shares.shape), nobody, dtype=np.int64)
        for i, lab in enumerate(self.labs):
            generator = torch_generator(seed, "batches", lab, round_)
            for epoch in orders:
                drawn = batches(self._n_cells_of(i), self._training.batch_size, generator)
                for step, rows in enumerate(drawn):
                    epoch[step, i, : len(rows)] = self._first_row[i] + rows
        return torch.from_numpy(orders).to(self._device)

    def _run(self, orders: Tensor) -> None:
        """Take all steps of a round; nothing comes back from the device."""
        for epoch in orders.unbind():
            for rows, share, k in zip(
                epoch.unbind(), self._shares.unbind(), self._together, strict=True
            ):
                self._rows.copy_(rows)
                self._share.copy_(share)
                self._steps[k]()

    def _updates(
        self, state: State, begun: Sequence[State], starts: Mapping[str, Arrays]
    ) -> dict[str, Update]:
        shared = {name: tensor.detach().cpu() for name, tensor in state.shared.items()}
        private = {name: tensor.detach().cpu() for name, tensor in state.private.items()}
        losses = self._total.tolist()
        spreads = torch.stack([self._spread(state, i) for i in range(len(self.labs))]).tolist()
        updates = {}
        for i, (lab, own) in enumerate(zip(self.labs, begun, strict=True)):
            of_lab = (_one(shared, i, own.shared), _one(private, i, own.private))
            leaving, kept = kept_apart(*of_lab, starts[lab], self._method)
            steps = self._training.local_epochs * len(self._sizes[i])
            updates[lab] = Update(leaving, kept, self._n_cells_of(i), losses[i] / steps, spreads[i])
        return updates

    def _spread(self, state: State, i: int) -> Tensor:
        own = {name: tensor.detach()[i] for name, tensor in state.shared.items()}
        first, end = self._first_row[i : i + 2]
        return spread(own, self._cells[first : min(first + LOOKED_AT, end)])


def stack(states: Sequence[State], device: str) -> State:
    """Give the tensors of labs a leading dimension; shorter ones (queues) are filled up with 0.

    Parameters
    ----------
    states
        One for each lab, equal in names.
    device
        Of the new tensors.

    Returns
    -------
    State
        Without ``share`` and ``n_cells``, which a step needs.
    """
    return State(
        _stacked([state.shared for state in states], device),
        _stacked([state.private for state in states], device),
    )


def _stacked(labs: Sequence[Weights], device: str) -> Weights:
    stacked = {}
    for name, first in labs[0].items():
        of_labs = [lab[name].detach() for lab in labs]
        together = pad_sequence(of_labs, batch_first=True) if first.dim() else torch.stack(of_labs)
        stacked[name] = together.to(device).requires_grad_(first.requires_grad)
    return stacked


def _of_first(weights: Weights, k: int) -> Weights:
    """Give the first k labs' part of the same memory, as leaves of their own."""
    return {n: w[:k].detach().requires_grad_(w.requires_grad) for n, w in weights.items()}


def _one(weights: Weights, i: int, like: Weights) -> Arrays:
    """Copy what is lab i's, without what fills up."""
    return {
        name: weights[name][i][tuple(map(slice, own.shape))].numpy().copy()
        for name, own in like.items()
    }


def _put(labs: Sequence[CellMatrix], device: str) -> Tensor:
    """Put all cells on a device, float32 (cells + 1, genes); the last row is 0 and nobody's."""
    cells = torch.zeros(sum(own.n_cells for own in labs) + 1, labs[0].n_genes, device=device)
    first = 0
    for own in labs:
        for start in range(0, own.n_cells, _ROWS):
            rows = np.arange(start, min(start + _ROWS, own.n_cells))
            cells[first : first + len(rows)] = torch.from_numpy(own.batch(rows))
            first += len(rows)
    return cells
