"""Work on a GPU recorded once and started again as a whole: a step then costs one launch."""

import logging
from collections.abc import Callable

import torch

_log = logging.getLogger(__name__)

_WARM_UP = 3  # times torch asks for before a capture: libraries allocate on their first calls


def capture(work: Callable[[], None], generator: torch.Generator) -> Callable[[], None] | None:
    """Record work as a CUDA graph.

    Parameters
    ----------
    work
        Reads and writes the same tensors each time, and takes nothing from the device. It is done
        a few times here, so bring the tensors back to where they were.
    generator
        That ``work`` draws from; it may be seeded anew between replays.

    Returns
    -------
    Callable
        Does the work again; ``None``, with a sentence in the log, where it cannot be recorded.
    """
    before = torch.cuda.current_stream()
    try:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                work()
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream):
            work()
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # a failed capture leaves its own
        _log.warning("labs train without CUDA graphs: a step cannot be captured (%s)", error)
        return None
    replay: Callable[[], None] = graph.replay
    return replay
