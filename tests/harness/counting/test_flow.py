"""The data flow of a run: which work the image decides, and which an output is made from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmeter.harness.counting.counter import count_call
from segmeter.harness.counting.flow import Flow


class Net(nn.Module):
    """Three linear layers, called as a test says."""

    def __init__(self, run: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(4, 16)
        self.table = nn.Parameter(torch.rand(2, 4))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def modules(run: Callable[[Net, Tensor], Tensor]) -> tuple[set[str], set[str]]:
    """The layers whose work no output is made from, and those whose work the image does not decide."""
    net, x = Net(run).to("meta"), torch.empty(2, 4, device="meta")
    flow = Flow(x)
    output, count = count_call(net, lambda: net(x), flow=flow)
    assert sum(step.macs for step in flow.steps) == count.macs
    needed, decided = flow.read_by([output]), flow.decided_by_image()
    worked = {number: step.module for number, step in enumerate(flow.steps) if step.macs}
    return (
        {module for number, module in worked.items() if number not in needed},
        {module for number, module in worked.items() if number not in decided},
    )


def test_what_is_thrown_away_and_what_weights_alone_decide() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        net.b(x)
        return net.a(x) + net.a(net.table)

    unread, fixed = modules(run)
    assert unread == {"b"} and fixed == {"a"}


def test_a_view_and_what_is_written_in_place_belong_to_their_memory() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        held = torch.zeros(2, 3, 4, device=x.device)
        held[:, 1] = net.a(x)
        held.view(6, 4)[2:4].copy_(net.a(x))
        return net.c(held.transpose(0, 1)[0])

    assert modules(run) == (set(), set())


def test_a_constant_that_the_image_is_written_into_is_none_any_more() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        held = torch.zeros(2, 4)
        held[0] = net.a(x)[0]
        return net.c(held)

    assert modules(run) == (set(), set())


def test_of_a_stack_the_member_that_is_picked_is_read() -> None:
    def last(net: Net, x: Tensor) -> Tensor:
        return torch.stack([net.b(x), net.c(x)[:, :8]], dim=1)[:, -1]

    def all_of_them(net: Net, x: Tensor) -> Tensor:
        return torch.stack([net.b(x), net.c(x)[:, :8]], dim=1).sum(1)

    def overwritten(net: Net, x: Tensor) -> Tensor:
        stacked = torch.stack([net.c(x)[:, :8], net.c(x)[:, 8:]], dim=1)
        stacked[:, 1] = net.b(x)
        return stacked[:, 1]

    def turned(net: Net, x: Tensor) -> Tensor:
        return torch.stack([net.b(x)[:, :2], net.c(x)[:, :2]], dim=1).transpose(1, 2)[:, 0]

    assert modules(last)[0] == {"b"}
    assert modules(all_of_them)[0] == set()
    assert "b" not in modules(overwritten)[0]
    assert modules(turned)[0] == set()


def test_attention_is_followed_through_its_one_step() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        q, k = net.a(x)[None], net.a(net.table)[None]
        net.b(nn.functional.scaled_dot_product_attention(k, k, k)[0])
        return nn.functional.scaled_dot_product_attention(q, k, k)

    unread, fixed = modules(run)
    assert unread == {"b", ""} and fixed == {"a", "b", ""}
