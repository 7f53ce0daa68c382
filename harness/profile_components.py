"""Where a call's time goes: hooks at the borders between components.

The clock is read (an event is recorded, on CUDA) whenever the running component changes; each stretch goes
to the component that was running. So every moment belongs to exactly one component and the times add up to
the call's. Only modules at which the component changes get hooks; what they cost is measured by timing calls
with and without them in the same rounds.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.components import component_finder

OUTSIDE = "other"
_NO_FORWARD = nn.Module.forward


class ComponentTimer:
    """Times of one model's components; use :meth:`hooked`, and :meth:`run` within it."""

    def __init__(self, model: nn.Module, device: torch.device, depth: int = 2) -> None:
        find = component_finder(model)
        self.device = device
        self.model = model
        self.components = {
            name: ".".join(find(name).split(".")[:depth]) or OUTSIDE for name, _ in model.named_modules()
        }
        # A list of modules is never called itself: what it holds is bordered by the module around it.
        called = {name for name, module in model.named_modules() if type(module).forward is not _NO_FORWARD}
        self.borders = [
            name
            for name in self.components
            if name in called and self.components[name] != self._around(name, called)
        ]
        self._marks: list[tuple[Any, str]] = []
        self._stack = [OUTSIDE]

    def _around(self, name: str, called: set[str]) -> str:
        """Component of the innermost module around ``name`` that is itself called."""
        while name:
            name = name.rpartition(".")[0]
            if name in called:
                return self.components[name]
        return OUTSIDE

    @contextmanager
    def hooked(self) -> Iterator[int]:
        """Within this context the borders are watched; yields the number of hooked modules."""
        handles = []
        for name in self.borders:
            module = self.model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._entering(self.components[name])))
            handles.append(module.register_forward_hook(self._leaving, always_call=True))
        try:
            yield len(self.borders)
        finally:
            for handle in handles:
                handle.remove()

    def run(self, call: Callable[[], object]) -> dict[str, float]:
        """Milliseconds per component of one call; they add up to the call's."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._marks, self._stack = [], [OUTSIDE]
        self._mark(OUTSIDE)
        call()
        self._mark(OUTSIDE)
        return self._times()

    def _entering(self, component: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._stack.append(component)
            self._mark(component)

        return enter

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._stack.pop()
        self._mark(self._stack[-1])

    def _mark(self, component: str) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((event, component))
        else:
            self._marks.append((time.perf_counter_ns(), component))

    def _times(self) -> dict[str, float]:
        times: dict[str, float] = defaultdict(float)
        if self.device.type == "cuda":
            self._marks[-1][0].synchronize()
        for (begin, component), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            times[component] += begin.elapsed_time(end) if self.device.type == "cuda" else (end - begin) / 1e6
        return dict(times)
