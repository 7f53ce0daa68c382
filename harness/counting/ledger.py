"""What a count holds, and the ledger that it is written into while the model runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from segmeter.harness.counting.autocast import State
from segmeter.harness.counting.flow import Flow
from segmeter.harness.counting.op_costs import Cost

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """All calls of one operator inside one module (``module`` is its dotted path, "" the root).

    ``output_bytes`` are the bytes of its outputs, for operators that have multiply-accumulates.
    """

    module: str
    operator: str
    calls: int
    macs: int
    flops: int
    output_bytes: int = 0


@dataclass(frozen=True)
class UnknownOp:
    """An operator without a formula: how often it ran where, and the shapes of its first call."""

    module: str
    operator: str
    calls: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ModuleRun:
    """A module that ran.

    Attributes:
        calls: how often.
        output: shape of the first tensor it returned (None: no tensor).
        inputs: shapes of the tensors that it was first given, in order.
    """

    module: str
    calls: int
    output: tuple[int, ...] | None
    inputs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Branch:
    """A place where values choose what runs (``torch.cond``).

    Attributes:
        alternatives: the work of each branch.
        booked: which of them is part of the count: the one that ran, or the dearest where no values tell.
    """

    module: str
    alternatives: tuple["Count", ...]
    booked: int


@dataclass(frozen=True)
class Moved:
    """What sorting compares or gathering moves inside one module; see :mod:`harness.counting.moves`."""

    module: str
    kind: str
    amount: int


@dataclass(frozen=True)
class Count:
    """The work of one forward pass; figures are integers, as :mod:`harness.counting.op_costs` gives them."""

    work: tuple[Work, ...] = ()
    unknown: tuple[UnknownOp, ...] = ()
    runs: tuple[ModuleRun, ...] = ()
    branches: tuple[Branch, ...] = ()
    moves: tuple[Moved, ...] = ()

    @property
    def macs(self) -> int:
        """All multiply-accumulates, norms and upsampling at fvcore's weights."""
        return sum(w.macs for w in self.work)

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return sum(w.flops for w in self.work)

    @property
    def activation_bytes(self) -> int:
        """Bytes that operators with multiply-accumulates write: what a backward pass would have to keep."""
        return sum(w.output_bytes for w in self.work)

    def between(self, units: Callable[[Work], int]) -> tuple[int, int]:
        """The least and the most work that the branches leave possible, by a measure of one piece of work."""
        low = high = sum(units(w) for w in self.work)
        for branch in self.branches:
            booked = sum(units(w) for w in branch.alternatives[branch.booked].work)
            reach = [alternative.between(units) for alternative in branch.alternatives]
            low += min(least for least, _ in reach) - booked
            high += max(most for _, most in reach) - booked
        return low, high

    def under(self, prefix: str) -> "Count":
        """The same work with ``prefix`` put before every module path."""

        def joined(path: str) -> str:
            return ".".join(part for part in (prefix, path) if part)

        return Count(
            tuple(replace(w, module=joined(w.module)) for w in self.work),
            tuple(replace(u, module=joined(u.module)) for u in self.unknown),
            tuple(replace(r, module=joined(r.module)) for r in self.runs),
            tuple(
                Branch(joined(b.module), tuple(a.under(prefix) for a in b.alternatives), b.booked)
                for b in self.branches
            ),
            tuple(replace(m, module=joined(m.module)) for m in self.moves),
        )

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.work + other.work,
            self.unknown + other.unknown,
            self.runs + other.runs,
            self.branches + other.branches,
            self.moves + other.moves,
        )


@dataclass
class _Page:
    """One count in the making, by module and operator; an entry's first call gives its place."""

    work: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    unknown: dict[tuple[str, str], tuple[int, tuple[tuple[int, ...], ...]]] = field(default_factory=dict)
    runs: dict[str, tuple[int, Shape | None, tuple[Shape, ...]]] = field(default_factory=dict)
    branches: list[Branch] = field(default_factory=list)
    moves: dict[tuple[str, str], int] = field(default_factory=dict)

    def count(self) -> Count:
        return Count(
            tuple(Work(module, operator, *figures) for (module, operator), figures in self.work.items()),
            tuple(UnknownOp(module, name, *found) for (module, name), found in self.unknown.items()),
            tuple(ModuleRun(module, *found) for module, found in self.runs.items()),
            tuple(self.branches),
            tuple(Moved(module, kind, amount) for (module, kind), amount in self.moves.items()),
        )


class _Here(threading.local):
    """Where one thread is: each has its own, which a thread of the model's takes over from its parent."""

    def __init__(self) -> None:
        self.watched = False
        self.path = [""]
        self.muted = False
        self.reducers = 0
        self.autocast: State | None = None
        self.page = _Page()


class Ledger:
    """What the counter writes into while the model runs, in the thread that made it and those it starts.

    Attributes:
        here: whether this thread is one of them, the path of the module that runs at the end of ``path``,
            whether nothing is booked meanwhile, how many reducers of tokens are running, and autocast's
            state, which is set when a function of torch's is called, for what is dispatched inside it.
    """

    def __init__(self, flow: Flow | None = None) -> None:
        if flow is not None:
            flow.clear()
        self._flow = flow
        self.here = _Here()
        self.here.watched = True
        self._one_at_a_time = threading.Lock()

    def taken_over(self) -> Callable[[], AbstractContextManager[None]]:
        """Say where this thread is; the function that is given puts another thread there for a while."""
        path, page, reducers = list(self.here.path), self.here.page, self.here.reducers

        @contextmanager
        def there() -> Iterator[None]:
            before = vars(self.here).copy()
            vars(self.here).update(watched=True, path=list(path), muted=False, autocast=None, page=page)
            self.here.reducers = reducers
            try:
                yield
            finally:
                vars(self.here).update(before)

        return there

    def record(self, costs: list[Cost], out: Any) -> None:
        """Book a call's costs; its output is written once, however many kinds of work made it."""
        written = _bytes(out) if any(cost.macs for cost in costs) else 0
        for cost in costs:
            output_bytes = written if cost.macs else 0
            written -= output_bytes
            if cost.written is not None:
                output_bytes = cost.written * _element_size(out)
            self._add(Work(self.here.path[-1], cost.operator, 1, cost.macs, cost.flops, output_bytes))

    def record_step(self, func: Any, args: Any, out: Any, costs: list[Cost] | None) -> None:
        """Tell the data flow of a call; below one that is booked whole, it has no work of its own."""
        if self._flow is not None:
            booked = [] if self.here.muted or costs is None else [cost for cost in costs if cost.macs]
            operator = booked[0].operator if booked else ""
            macs = sum(cost.macs for cost in booked)
            with self._one_at_a_time:
                self._flow.note(self.here.path[-1], func, args, out, macs, operator)

    def record_move(self, kind: str, amount: int) -> None:
        """Note comparisons of a sort, or bytes that were gathered."""
        key, moves = (self.here.path[-1], kind), self.here.page.moves
        with self._one_at_a_time:
            moves[key] = moves.get(key, 0) + amount

    def record_unknown(self, name: str, args: Any) -> None:
        """Note an operator without a formula."""
        flat = [each for a in args for each in (a if isinstance(a, list | tuple) else [a])]
        shapes = tuple(_shape(a) for a in flat if isinstance(a, Tensor))
        self._add_unknown(UnknownOp(self.here.path[-1], name, 1, shapes))

    def record_run(self, path: str, inputs: Any, output: Any) -> None:
        """Note that a module has run, on any nest of tensors."""
        self._add_run(ModuleRun(path, 1, _first_shape(output), tuple(_shapes(inputs))))

    def record_branch(self, alternatives: tuple[Count, ...], booked: int) -> None:
        """Book one of the branches that could run, and keep them all."""
        taken = alternatives[booked]
        for work in taken.work:
            self._add(work)
        for unknown in {(u.module, u.operator): u for each in alternatives for u in each.unknown}.values():
            self._add_unknown(unknown)
        for run in taken.runs:
            self._add_run(run)
        self.here.page.branches.append(Branch(self.here.path[-1], alternatives, booked))

    @contextmanager
    def aside(self) -> Iterator[Callable[[], Count]]:
        """Write into a page of its own for a while; gives a function that returns what it holds."""
        before, self.here.page = self.here.page, _Page()
        page = self.here.page
        try:
            yield page.count
        finally:
            self.here.page = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Book nothing for a while: what runs has been booked under another name."""
        before, self.here.muted = self.here.muted, True
        try:
            yield
        finally:
            self.here.muted = before

    def count(self) -> Count:
        """Everything booked so far."""
        return self.here.page.count()

    def _add(self, work: Work) -> None:
        with self._one_at_a_time:
            figures = self.here.page.work.setdefault((work.module, work.operator), [0, 0, 0, 0])
            for at, more in enumerate((work.calls, work.macs, work.flops, work.output_bytes)):
                figures[at] += more

    def _add_unknown(self, unknown: UnknownOp) -> None:
        key, found = (unknown.module, unknown.operator), self.here.page.unknown
        with self._one_at_a_time:
            calls, shapes = found.get(key, (0, unknown.shapes))
            found[key] = (calls + unknown.calls, shapes)

    def _add_run(self, run: ModuleRun) -> None:
        runs = self.here.page.runs
        with self._one_at_a_time:
            calls, output, inputs = runs.get(run.module, (0, run.output, run.inputs))
            runs[run.module] = (calls + run.calls, output, inputs)


def _shape(tensor: Tensor) -> Shape:
    """Sides of a tensor; () for one of rows of several lengths, which has none."""
    return () if tensor.is_nested else tuple(tensor.shape)


def _bytes(out: Any) -> int:
    first = out[0] if isinstance(out, tuple | list) and out else out
    return first.numel() * first.element_size() if isinstance(first, Tensor) else 0


def _element_size(out: Any) -> int:
    first = out[0] if isinstance(out, tuple | list) and out else out
    return first.element_size() if isinstance(first, Tensor) else 0


def _shapes(inputs: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(inputs, Tensor):
        yield _shape(inputs)
    elif isinstance(inputs, dict):
        yield from _shapes(tuple(inputs.values()))
    elif isinstance(inputs, tuple | list):
        for each in inputs:
            yield from _shapes(each)


def _first_shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, Tensor):
        return _shape(output)
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output:
        return _first_shape(output[0])
    return None
