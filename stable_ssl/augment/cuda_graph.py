"""A view on a GPU as one CUDA graph: the same kernels, the same bits, one launch.

A view is hundreds of small kernels. Where the images are small, to launch them takes
the host longer than the GPU needs to run them.
"""

import warnings

import torch
from torch import Tensor

from stable_ssl.augment.view import View

SMALL = 2**24  # values of a batch; a larger one keeps the GPU busy while the host works
WARMUP = 2  # batches before a graph is recorded: they build kernels, cache constants


class Replay:
    """Make a view as `View` does; from the third batch of a shape on by a graph.

    Args:
        view: one with operations that wait for the GPU is made without a graph.
    """

    def __init__(self, view: View):
        self.view, self.ops = view, view.ops
        self.batches: dict[tuple, int] = {}  # seen so far, by shape and type
        self.graphs: dict[tuple, tuple | None] = {}  # None: could not be recorded

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return the view (N, C, H', W') float32; the arguments are those of `View`."""
        on_gpu = isinstance(images, Tensor) and images.is_cuda
        if not on_gpu or images.numel() > SMALL or not len(images):
            return self.view(images, keys)
        shape = images.shape, images.dtype
        if self.batches.setdefault(shape, 0) < WARMUP:
            self.batches[shape] += 1
            return self.view(images, keys)
        if shape not in self.graphs:
            self.graphs[shape] = self._record(images, keys)
        if (recorded := self.graphs[shape]) is None:
            return self.view(images, keys)
        graph, graph_images, graph_keys, view = recorded
        graph_images.copy_(images)
        graph_keys.copy_(keys)
        graph.replay()
        return view.clone()

    def _record(self, images: Tensor, keys: Tensor) -> tuple | None:
        """Return the graph, what it reads and what it writes."""
        graph, inputs = torch.cuda.CUDAGraph(), (images.clone(), keys.clone())
        current = torch.cuda.current_stream(images.device)
        stream = torch.cuda.Stream(images.device)
        how = {"stream": stream, "capture_error_mode": "thread_local"}
        try:
            self._refuse_waiting(*inputs)
            # other threads, such as one that pins memory, may go on meanwhile
            with torch.cuda.graph(graph, **how):
                view = self.view(*inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # which a graph that fails does not restore
            reason = str(error).partition("\n")[0]
            warnings.warn(f"a view is made without a graph: {reason}", stacklevel=2)
            return None
        return graph, *inputs, view

    def _refuse_waiting(self, images: Tensor, keys: Tensor) -> None:
        """Make the view once; raise a RuntimeError where it waits for the GPU.

        A graph that meets such an operation as it is recorded may leave the allocator
        of CUDA recording.
        """
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.view(images, keys)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def close(self) -> None:
        """Give the memory of the graphs back."""
        self.graphs.clear()
