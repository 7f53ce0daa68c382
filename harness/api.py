"""The Python interface: count a module, compare two counts, time it, hold it to a budget.

>>> import torch
>>> narrow = count(torch.nn.Linear(8, 16), (4, 8))   # a shape: counted on meta tensors
>>> narrow.macs, narrow.params
(512, 144)
>>> wide = count(torch.nn.Linear(8, 32), (4, 8))
>>> wide.diff(narrow).macs
512
>>> print(wide.diff(narrow))
+512 MACs, +144 parameters
the model itself: Linear weight 16x8, bias 16 became weight 32x8, bias 32 [+512 MACs, +144 parameters]
>>> timed = profile(torch.nn.Linear(8, 16), (4, 8), seconds=0.1)
>>> timed.low <= timed.latency_ms <= timed.high and timed.latency_ms > 0
True
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segmeter.harness.counting import (
    Training,
    count_module,
    count_step,
    forget_costs,
    in_eval,
    register_formula,
    runnable,
)
from segmeter.harness.gate import (
    WITHIN,
    Change,
    Limit,
    Measured,
    ModelBudget,
    Snapshot,
    Verdict,
    changes_between,
    judge_measured,
    parse_limit,
    snapshot_of,
)
from segmeter.harness.models import parse_model

if TYPE_CHECKING:
    import pandas
    from torch.export import ExportedProgram


class OverBudgetError(AssertionError):
    """A model costs more than its budget; the message names the figures and what moved them."""


@dataclass(frozen=True, repr=False)
class Difference:
    """What lies between two counts, positive where the newer costs more; printed, every change."""

    macs: int
    params: int
    activation_bytes: int
    changes: tuple[Change, ...]

    def __repr__(self) -> str:
        cost = _figures(self.macs, self.params) or "no difference in cost"
        return f"Difference({cost}, {len(self.changes)} changes)"

    def __str__(self) -> str:
        lines = [_figures(self.macs, self.params) or "no difference in cost"]
        for change in self.changes:
            lines.append(f"{change.text} [{_figures(change.work, change.params) or 'no cost'}]")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Count:
    """What one forward pass of a module costs; printed, it is the table of ``segmeter flops``.

    Attributes:
        macs: multiply-accumulates, norms and resizing at fvcore's weights.
        macs_range: the least and the most that branches (``torch.cond``) leave possible; ``macs`` twice
            without any. ``macs`` itself is of the branch that ran, or of the dearest on meta tensors.
        flops: floating-point operations, elementwise work included.
        params: parameters; a shared one counts once.
        activation_bytes: bytes that operators with multiply-accumulates write.
        components: component (module path, unless the module describes itself) -> MACs of its own.
        not_counted: operators without a formula -> how often they ran, where, and on what shapes.
        snapshot: all of it by module, as a baseline file holds it.
        training: one step of training, where it was asked for.
    """

    macs: int
    macs_range: tuple[int, int]
    flops: int
    params: int
    activation_bytes: int
    components: dict[str, int]
    not_counted: dict[str, str]
    snapshot: Snapshot
    training: Training | None = None

    def diff(self, other: "Count") -> Difference:
        """What this count has more than an ``other``, older one, attributed to modules."""
        return Difference(
            self.macs - other.macs,
            self.params - other.params,
            self.activation_bytes - other.activation_bytes,
            tuple(changes_between(other.snapshot, self.snapshot)),
        )

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each module: its class, component, own MACs, parameters, calls, and shapes."""
        import pandas

        rows = {path: asdict(cost) for path, cost in self.snapshot.modules.items()}
        frame = pandas.DataFrame.from_dict(rows, orient="index").rename(columns={"work": "macs"})
        return frame.rename_axis("module")

    def __repr__(self) -> str:
        lost = f", {len(self.not_counted)} operators not counted" if self.not_counted else ""
        return f"Count({self.snapshot.model}: {self.macs:,} MACs, {self.params:,} parameters{lost})"

    def __str__(self) -> str:
        from segmeter.reports.text.interface import count_text

        return count_text(self.snapshot.model, self.components, self._notes())

    def _repr_html_(self) -> str:
        from segmeter.reports.text.interface import count_page

        return count_page(self.snapshot.model, self.components, self._notes())

    def _notes(self) -> list[str]:
        from segmeter.reports.text.interface import count_notes

        figures = (self.flops, self.macs_range, self.params, self.activation_bytes)
        return count_notes(*figures, self.not_counted)


def count(
    model: "nn.Module | ExportedProgram",
    inputs: Any = None,
    components: Mapping[str, str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    backward: bool = False,
) -> Count:
    """Count one forward pass, in eval mode and without gradients.

    Args:
        model: any module, or a program of ``torch.export``. It is left as it was, as are its inputs and the
            random numbers.
        inputs: a shape such as ``(1, 3, 224, 224)`` or a tensor; a tuple of positional arguments; a list of
            them, or one argument where the model takes a list (torchvision's detectors); a dict of keyword
            arguments; or a pair of a tuple and a dict. Where no tensor is among them, shapes at any depth
            become meta tensors, counted on a copy without weights: of the model's own precision, or of token
            ids where the model asks for them. Tensors must be on the model's device. A program's example
            inputs serve if nothing is given.
        components: module-path pattern -> component name, e.g. ``{"layers.*.ffn": "ffn"}``.
        kwargs: keyword arguments beside ``inputs``.
        backward: also count one step of training, in training mode, with the sum of the outputs as the loss.

    Raises:
        DataDependentError: counted on meta, but the work depends on the input's values.
        ValueError: a shape with a side below 1, a batch of nothing, or no inputs at all.
    """
    counted = _counted(model, inputs, kwargs, components)[0]
    return replace(counted, training=count_step(model, inputs, kwargs)) if backward else counted


def _counted(
    model: "nn.Module | ExportedProgram",
    inputs: Any,
    kwargs: Mapping[str, Any] | None,
    components: Mapping[str, str] | None = None,
) -> tuple[Count, nn.Module]:
    """A count, and the module that was counted."""
    module, work = count_module(model, inputs, kwargs)
    snapshot = snapshot_of(type(module).__name__, None, "macs", (work,), module, components)
    counted = Count(
        macs=snapshot.total,
        macs_range=work.between(lambda each: each.macs),
        flops=work.flops,
        params=snapshot.params,
        activation_bytes=snapshot.activation_bytes,
        components={name: units for name, units in snapshot.components.items() if units},
        not_counted=snapshot.uncounted,
        snapshot=snapshot,
    )
    return counted, module


@dataclass(frozen=True, repr=False)
class Profile:
    """What one forward pass of a module took; printed, it is a table of its components.

    Attributes:
        latency_ms: median over ``samples``.
        low: lower end of the interval in which the median of a repeat falls 95 times in 100.
        high: its upper end.
        samples: milliseconds of every call, in the order taken.
        components: component -> milliseconds of a call; together they are the whole call.
        parameter_bytes: bytes of the parameters.
        peak_bytes: bytes at the peak of a call above those before it; None where the system does not tell.
        stable: whether the warm-up ended because the times had settled, rather than because time was up.
    """

    latency_ms: float
    low: float
    high: float
    samples: tuple[float, ...]
    components: dict[str, float]
    parameter_bytes: int
    peak_bytes: float | None
    stable: bool

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each component: milliseconds of a call, and share of it."""
        import pandas

        frame = pandas.DataFrame({"ms": self.components})
        return frame.assign(share=frame["ms"] / frame["ms"].sum()).rename_axis("component")

    def __repr__(self) -> str:
        between = f"{self.low:.4g} to {self.high:.4g}"
        return f"Profile({self.latency_ms:.4g} ms, {between}, {len(self.samples)} calls)"

    def __str__(self) -> str:
        from segmeter.reports.text.interface import printed_text, profile_table

        return printed_text(profile_table("Latency", self.components), *self._notes())

    def _repr_html_(self) -> str:
        from segmeter.reports.text.interface import page_text, profile_rows

        heads = ("component", "ms", "share")
        return page_text("Latency", heads, profile_rows(self.components), self._notes())

    def _notes(self) -> list[str]:
        from segmeter.reports.text.interface import profile_notes

        latency = (self.latency_ms, self.low, self.high)
        return profile_notes(latency, len(self.samples), self.parameter_bytes, self.peak_bytes, self.stable)


def profile(
    model: nn.Module | str,
    inputs: Any,
    *,
    seconds: float = 10.0,
    depth: int = 2,
    kwargs: Mapping[str, Any] | None = None,
) -> Profile:
    """Time one forward pass, in eval mode and without gradients, after a warm-up.

    Args:
        model: any module, timed on the device where it is and left as it was; or a model as the command
            line takes it, such as ``"pro-scale@r50"``, built on the CPU with random weights.
        inputs: as :func:`count` takes them; for a shape, seeded noise of that shape.
        seconds: time for the calls that are measured; the warm-up has a third of it at most.
        depth: levels of components to tell apart.
        kwargs: keyword arguments beside ``inputs``.

    Raises:
        ValueError: a model's text that cannot be read, seconds that are not above 0, or a depth below 1.

    >>> from torch import nn
    >>> sorted(profile(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), (4, 8), seconds=0.1).components)
    ['0', '1', 'other']
    """
    from segmeter.harness.machine import parameter_bytes, peak_memory
    from segmeter.harness.models import real_model
    from segmeter.harness.profiling import (
        ComponentTimer,
        Plan,
        component_times,
        interleave,
        summarise,
        warm_up,
    )

    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be a number above 0, got {seconds!r}")
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, got {depth!r}")
    module: nn.Module = real_model(parse_model(model, own=True)) if isinstance(model, str) else model
    watched: nn.Module = getattr(module, "_orig_mod", module)
    found, arguments, keywords = runnable(watched, inputs, kwargs)
    if found is not watched:
        module = watched = found
    weights = next((p for p in watched.parameters()), None)
    device = weights.device if weights is not None else torch.device("cpu")

    def call() -> object:
        return module(*arguments, **keywords)

    def eager() -> object:
        return watched(*arguments, **keywords)

    with in_eval(module), torch.inference_mode():
        warm = warm_up(call, device, seconds / 3)
        samples = interleave([call], device, Plan(seconds=seconds))[0]
        times = component_times(ComponentTimer(watched, device, depth), eager, device, seconds / 2)
        memory, _ = peak_memory(eager, device, parameter_bytes(watched))
    summary = summarise(samples)
    peak = "peak_allocated_over_start_bytes" if device.type == "cuda" else "peak_rss_over_start_bytes"
    return Profile(
        latency_ms=summary.median,
        low=summary.low,
        high=summary.high,
        samples=tuple(samples),
        components=times.ms,
        parameter_bytes=parameter_bytes(watched),
        peak_bytes=memory[peak],
        stable=warm.stable,
    )


def register_op(operator: str, macs: Callable[..., int]) -> None:
    """Give an operator of your own a cost, in one line.

    Args:
        operator: its qualified name, e.g. ``mylib::fused_ffn``.
        macs: takes the operator's positional arguments and returns its multiply-accumulates; tensors may
            be on meta, so read their shapes only.

    Raises:
        ValueError: not such a name, or segmeter has a formula for it.

    >>> register_op("mylib::gated_sum", lambda x, gate: 2 * x.numel())
    """
    register_formula(operator, macs)
    forget_costs()


def assert_within_budget(
    model: "nn.Module | ExportedProgram",
    inputs: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    total: str | int | None = None,
    params: str | int | None = None,
    activations: str | int | None = None,
    limits: Mapping[str, str | int] | None = None,
    baseline: Snapshot | None = None,
    allow_uncounted: tuple[str, ...] = (),
    name: str = "model",
) -> Count:
    """Raise unless a module's cost is within limits written as in a budget file.

    Args:
        model: any module, or a program of ``torch.export``.
        inputs, kwargs: as :func:`count` takes them.
        total: at most so many MACs, e.g. "4.2 GMACs" or "+1 %" of the baseline.
        params: at most so many parameters, e.g. "26 M".
        activations: at most so many activation bytes, e.g. "300 MB".
        limits: component or module pattern -> at most so many MACs.
        baseline: an earlier ``count(...).snapshot``.
        allow_uncounted: operators without a formula that may appear.
        name: what the message calls the model.

    Raises:
        OverBudgetError: over a limit, or an operator without a formula ran.
        ValueError: a limit that cannot be read, names no component, or is relative without a baseline.
    """
    counted, module = _counted(model, inputs, kwargs)
    given = {"total": total, "params": params, "activations": activations, **(limits or {})}
    read: dict[str, Limit] = {k: parse_limit(k, v) for k, v in given.items() if v is not None}
    budget = ModelBudget(name, counted.snapshot.model, limits=read, allow_uncounted=allow_uncounted)
    verdicts, _ = judge_measured(Measured(budget, counted.snapshot, module), baseline)
    bad = [verdict for verdict in verdicts if verdict.status != WITHIN]
    if bad:
        raise OverBudgetError("\n".join(_sentence(verdict) for verdict in bad))
    return counted


def _sentence(verdict: Verdict) -> str:
    if verdict.detail:
        return f"{verdict.model}: {verdict.what} has no formula and is not counted: {verdict.detail}"
    text = f"{verdict.model}: {verdict.what} {verdict.now:,} {verdict.unit}, limit {verdict.most:,}"
    if verdict.before is not None:
        text += f", baseline {verdict.before:,}"
    return "; ".join([text, *(cause.text for cause in verdict.causes)])


def _figures(macs: int, params: int) -> str:
    parts = [f"{macs:+,} MACs"] if macs else []
    return ", ".join(parts + ([f"{params:+,} parameters"] if params else []))
