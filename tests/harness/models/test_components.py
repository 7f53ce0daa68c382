"""From module paths to component names."""

from torch import nn

from segmeter.harness.models.components import component_finder


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        self.head = nn.Linear(1, 1)

    def components(self) -> dict[str, str]:
        return {"layers.*": "ffn", "head": "prediction.classes", "": "rest"}


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Inner()
        self.plain = nn.Sequential(nn.Linear(1, 1))


def test_the_innermost_description_decides() -> None:
    find = component_finder(Outer())
    assert find("part.layers.1") == "part.ffn"
    assert find("part.head") == "part.prediction.classes"
    assert find("part") == "part.rest"
    # Nothing describes `plain`: the path is the component.
    assert find("plain.0") == "plain.0"
    assert find("") == ""


def test_a_child_without_a_pattern_belongs_to_its_nearest_described_parent() -> None:
    assert component_finder(Outer())("part.head.deep.er") == "part.prediction.classes"


def test_a_star_stays_within_one_name() -> None:
    class Tall(nn.Module):
        def components(self) -> dict[str, str]:
            return {"a.*": "matched"}

    assert component_finder(Tall())("a.b") == "matched"
    assert component_finder(Tall())("ab.c") == "ab.c"
