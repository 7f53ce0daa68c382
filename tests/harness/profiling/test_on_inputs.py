"""MACs of what is timed, where they depend on the images."""

import pytest
import torch

from segmeter.harness.counting import apply_convention, run_and_count
from segmeter.harness.models import find_components, parse_model, real_model
from segmeter.harness.profiling.on_inputs import work_on_inputs
from tests.helpers.reduction_recipe import images


def test_components_of_a_mixed_batch_are_shared_out_over_its_images() -> None:
    spec = parse_model("segmenter@vit-ti:num_classes=5:reduction=algm:threshold=0.8")
    model = real_model(spec)
    batches = [images(["coffee", "rocket"], 128), images(["astronaut", "coffee"], 128)]
    with torch.inference_mode():
        work = work_on_inputs(model, batches, depth=2)
    totals = [
        apply_convention(run_and_count(model, batch)[1], find_components(spec), "published").total
        for batch in batches
    ]
    total = work.pop("total")
    assert total == pytest.approx(sum(totals) / 4)
    assert sum(work.values()) == pytest.approx(total)
    assert work["encoder.matching"] > 0
