"""A GPU's work on one frame recorded once and replayed: one launch where there are hundreds of short ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

Run = Callable[[], object]
_WARM_UP_CALLS = 3  # before the recording: libraries choose their kernels and take their memory


_recording = Lock()  # torch records one graph at a time in a process


@functools.cache
def _stream_aside(device: torch.device) -> torch.cuda.Stream:
    """For all recordings on this device: libraries keep workspaces for every stream that they have seen."""
    return torch.cuda.Stream(device)


def record_on_gpu(device: torch.device, run: Run) -> Run:
    """What replays ``run`` as a CUDA graph, which reads and writes the same memory every time."""
    with _recording, torch.cuda.device(device):
        aside = _stream_aside(device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_CALLS):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the GPU meanwhile. The stream is named, because torch's own for this belongs to
        # the device that recorded first.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            run()
    return graph.replay


class Recordings:
    """Functions of tensors, each recorded for the shapes that it is asked about. Threads may share them.

    A function must depend on nothing but its arguments and on what stays where it is.
    """

    def __init__(self, record: Callable[[Run], Run]) -> None:
        self._record, self._lock = record, Lock()
        self._recorded: dict[tuple[object, ...], _Recorded] = {}

    def answer(
        self,
        name: str,
        function: Callable[..., Tensor],
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor] = (),
    ) -> Tensor:
        """``function(*fresh, *kept)``. What is ``kept`` is copied only where it is not what it was in the last call."""
        with self._lock:
            key = (name, *(tuple(argument.shape) for argument in (*fresh, *kept)))
            if key not in self._recorded:
                self._recorded[key] = _Recorded(function, fresh, kept, self._record)
            return self._recorded[key](fresh, kept)


class _Recorded:
    def __init__(
        self,
        function: Callable[..., Tensor],
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor],
        record: Callable[[Run], Run],
    ) -> None:
        self._fresh, self._kept = ([argument.clone() for argument in part] for part in (fresh, kept))
        self._last_kept = list(kept)

        def run() -> None:
            self._answer = function(*self._fresh, *self._kept)

        self._replay = record(run)

    def __call__(self, fresh: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        torch._foreach_copy_(self._fresh, list(fresh))
        if any(new is not last for new, last in zip(kept, self._last_kept, strict=True)):
            torch._foreach_copy_(self._kept, list(kept))
            self._last_kept = list(kept)
        self._replay()
        return self._answer.clone()  # the next replay overwrites it
