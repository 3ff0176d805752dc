"""MoCo v1 (He et al. 2020) and v2 (Chen et al. 2020): contrast against a queue of past keys.

View 1 is the query, view 2 the key, made by a moving average of the query network. The queue is a
ring buffer of the lab's last keys: it never leaves the lab, survives from round to round and is
never longer than the lab's cells, or it would hold every cell several times. v2 is v1 with a
two-layer head and a higher temperature; see ``docs/decisions/0010-moco.md``.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsc.models.encoder import EMBEDDING, PROJECTION, init_online, project
from fedsc.models.mlp import Weights
from fedsc.options import MethodOptions
from fedsc.ssl.losses import info_nce
from fedsc.ssl.objective import Descend, Objective, State, copy_as, mark_trainable, move_average


def init(
    n_genes: int, options: MethodOptions, generator: torch.Generator, *, head: tuple[int, ...]
) -> Weights:
    """Draw the query network, its projector of widths ``head``; there is no predictor."""
    return init_online(n_genes, options.norm, generator, head)


def begin(
    shared: Weights,
    private: Weights,
    n_cells: int,
    options: MethodOptions,
    generator: torch.Generator,
) -> State:
    """Start a round; the key network is a copy of the received query network, the queue stays.

    A kept queue of another length (the lab's file has changed) makes way for an empty one.
    """
    length = min(options.queue, n_cells)
    if "queue" in private and len(private["queue"]) == length:
        queue = {name: private[name] for name in ("queue", "queue.filled", "queue.next")}
    else:
        queue = {
            "queue": shared["encoder.0.weight"].new_zeros(length, PROJECTION),
            "queue.filled": torch.tensor(0),
            "queue.next": torch.tensor(0),
        }
    private = {**copy_as("key.", shared), **queue}
    mark_trainable(shared)
    return State(shared, private)


def step(
    state: State,
    views: Tensor,
    descend: Descend,
    options: MethodOptions,
    *,
    temperature: float,
) -> Tensor:
    """Take one step on eq. (1), move the key network, then queue this batch's keys (Algorithm 1).

    Until the queue has filled only what it holds serves as negatives. A lab's very first step has
    none: its loss and gradient are exactly 0 and it fills the queue.
    """
    with torch.no_grad():
        keys = F.normalize(project(state.private, views[..., 1, :], "key.", state.share), dim=-1)
    queue, filled = state.private["queue"], state.private["queue.filled"]
    if state.share is None:
        negatives, known = queue[: int(filled)], None
    else:  # the queues of stacked labs are filled unequally, and no count leaves the device
        negatives, known = queue, _places(queue) < filled[:, None]
    queries = project(state.shared, views[..., 0, :], share=state.share)
    tau = options.temperature or temperature
    loss = info_nce(queries, keys, negatives, tau, known, state.share)
    descend(loss)
    move_average(state.private, "key.", state.shared, options.target_momentum)
    if state.share is None or state.n_cells is None:
        _push(state.private, keys)
    else:
        lengths = state.n_cells.clamp(max=options.queue)
        _push_stacked(state.private, keys, (state.share > 0).sum(1), lengths)
    return loss.detach()


def _push(private: Weights, keys: Tensor) -> None:
    """Write keys into the ring one after the other, in place; the oldest make way."""
    queue, filled, following = private["queue"], private["queue.filled"], private["queue.next"]
    length = len(queue)
    overrun = max(0, len(keys) - length)  # these the same batch would overwrite
    start = (int(following) + overrun) % length
    kept = keys[overrun:]
    before_end = min(len(kept), length - start)
    queue[start : start + before_end] = kept[:before_end]
    queue[: len(kept) - before_end] = kept[before_end:]
    filled.add_(len(keys)).clamp_(max=length)
    following.add_(len(keys)).remainder_(length)


def _push_stacked(private: Weights, keys: Tensor, n_keys: Tensor, lengths: Tensor) -> None:
    """Write each lab's first ``n_keys`` keys into its ring: ask every place for its last key."""
    queue, filled, following = private["queue"], private["queue.filled"], private["queue.next"]
    n, length = n_keys[:, None], lengths[:, None]
    first = (_places(queue) - following[:, None]).remainder(length)  # key that comes to a place
    last = first + (n - 1 - first).div(length, rounding_mode="floor") * length
    written = (first < n) & (_places(queue) < length)
    chosen = last.clamp(0, keys.shape[1] - 1)[:, :, None].expand(-1, -1, keys.shape[2])
    queue.copy_(torch.where(written[:, :, None], keys.gather(1, chosen), queue))
    filled.copy_(torch.minimum(filled + n_keys, lengths))
    following.add_(n_keys).remainder_(lengths)


def _places(queue: Tensor) -> Tensor:
    return torch.arange(queue.shape[1], device=queue.device)


V1 = Objective(
    partial(init, head=(EMBEDDING, PROJECTION)),
    begin,
    partial(step, temperature=0.07),
    stacks=True,
)
V2 = Objective(
    partial(init, head=(EMBEDDING, EMBEDDING, PROJECTION)),
    begin,
    partial(step, temperature=0.2),
    stacks=True,
)
