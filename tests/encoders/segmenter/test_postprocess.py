import math

import pytest
import torch
from torch import Tensor

from segmeter.encoders.segmenter.postprocess import (
    PostProcess,
    Segment,
    SegmentationOutput,
    instances,
    panoptic,
)
from segmeter.harness.counting.counter import run_and_count

NO_OBJECT = -1
# Mask logits far from 0: a probability of 1 or 0 to nine digits.
INSIDE, OUTSIDE = 20.0, -20.0


def class_row(category: int, score: float, num_classes: int) -> list[float]:
    """Logits of K + 1 entries whose softmax gives ``score`` to one and shares the rest equally."""
    row = [math.log((1 - score) / num_classes)] * (num_classes + 1)
    row[category] = math.log(score)
    return row


def column_mask(columns: set[int], height: int = 4, width: int = 8) -> Tensor:
    mask = torch.full((height, width), OUTSIDE)
    mask[:, sorted(columns)] = INSIDE
    return mask


def segmentation_output(class_logits: list[list[float]], masks: list[Tensor]) -> SegmentationOutput:
    """One image's output; its semantic map plays no part in what is tested here."""
    stacked = torch.stack(masks)[None]
    num_classes = len(class_logits[0]) - 1
    semantic = torch.zeros(1, num_classes, *stacked.shape[-2:])
    return SegmentationOutput(semantic=semantic, masks=stacked, class_logits=torch.tensor([class_logits]))


def test_shapes_follow_the_original_size():
    output = PostProcess()(torch.zeros(2, 5, 20), torch.zeros(2, 5, 24, 40), (96, 160), (90, 150), (45, 75))
    assert output.semantic.shape == (2, 19, 45, 75)
    assert output.masks.shape == (2, 5, 45, 75)
    assert output.class_logits.shape == (2, 5, 20)


def test_published_cost_at_1024x2048():
    # 100 masks * 1024*2048 px * 4 MACs * 2 resizes     = 1,677,721,600
    # 19 classes * 100 masks * 1024*2048 px             = 3,984,588,800
    # The official 5.7965 GMACs hold 0.1342 more: the FPN step's resize, booked there.
    size = (1024, 2048)
    logits = torch.empty(1, 100, 20, device="meta"), torch.empty(1, 100, 256, 512, device="meta")
    _, count = run_and_count(PostProcess(), *logits, size, size, size)
    assert count.macs == 1_677_721_600 + 3_984_588_800
    assert count.unknown == ()


def test_semantic_score_sums_class_times_mask_over_queries():
    # Even masks stay even under resizing, so every pixel has the same two queries.
    # Query 0: p = (.7, .2, .1 no object), mask probability .8; query 1: (.1, .3, .6), .5.
    class_logits = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]]).log()
    mask_logits = torch.tensor([math.log(4.0), 0.0])[None, :, None, None].expand(1, 2, 4, 8)
    output = PostProcess()(class_logits, mask_logits, (16, 32), (16, 30), (7, 11))
    # class 0: .7*.8 + .1*.5 = .61; class 1: .2*.8 + .3*.5 = .31
    expected = torch.tensor([0.61, 0.31])[None, :, None, None].expand(1, 2, 7, 11)
    # A few float32 roundings of numbers below 1.
    torch.testing.assert_close(output.semantic, expected, rtol=0, atol=1e-6)


def test_padding_is_cut_before_resizing():
    # 8x16 masks of a 32x64 tensor whose right half is padding. The last valid column, 31, lies at
    # (31 + .5) / 4 - .5 = 7.375 and so blends columns 7 and 8: columns from 9 on cannot be seen.
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(1, 3, 8, 16, generator=generator)
    changed = masks.clone()
    changed[..., 9:] += 100.0
    sizes = ((32, 64), (32, 32), (16, 16))
    class_logits = torch.zeros(1, 3, 5)
    output, other = (PostProcess()(class_logits, m, *sizes) for m in (masks, changed))
    assert torch.equal(output.masks, other.masks)
    changed[..., 8] += 1.0
    assert not torch.equal(output.masks, PostProcess()(class_logits, changed, *sizes).masks)


def test_masks_of_the_final_size_pass_unchanged():
    masks = torch.randn(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    output = PostProcess()(torch.zeros(1, 2, 3), masks, (6, 9), (6, 9), (6, 9))
    assert torch.equal(output.masks, masks)


@pytest.mark.parametrize(
    "sizes, message",
    [
        (
            ((32, 32), (33, 32), (8, 8)),
            r"image_size \(33, 32\) must fit into padded_size \(32, 32\)",
        ),
        (((32, 32), (32, 32), (0, 8)), r"original_size must be a positive \(height, width\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        PostProcess()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 8, 8), *sizes)


def test_logits_that_do_not_fit_are_refused():
    size = (32, 32)
    with pytest.raises(ValueError, match=r"mask_logits must be \(1, 2, h, w\), got \(1, 3, 8, 8\)"):
        PostProcess()(torch.zeros(1, 2, 4), torch.zeros(1, 3, 8, 8), size, size, size)
    with pytest.raises(ValueError, match="K at least 1"):
        PostProcess()(torch.zeros(1, 2, 1), torch.zeros(1, 2, 8, 8), size, size, size)


def test_panoptic_of_two_things_merged_stuff_and_void():
    # Things 0 and 1, stuff 2 and 3; an image of 8 columns.
    queries = [
        (0, 0.95, {0, 1}),  # thing
        (0, 0.93, {2, 3}),  # a second thing of the same class stays apart
        (2, 0.92, {4}),  # stuff ...
        (2, 0.91, {5}),  # ... of the same class joins the first
        (1, 0.85, {3, 4, 5, 6}),  # wins column 6 alone: 1/4 of its mask < 0.8, so dropped
        (3, 0.75, {7}),  # not confident enough
        (NO_OBJECT, 0.99, set(range(8))),  # no object, however sure
    ]
    output = segmentation_output(
        [class_row(category, score, num_classes=4) for category, score, _ in queries],
        [column_mask(columns) for _, _, columns in queries],
    )
    (result,) = panoptic(output, thing_ids=[0, 1])
    assert result.segmentation.dtype == torch.int32
    assert result.segmentation.tolist() == [[1, 1, 2, 2, 3, 3, 0, 0]] * 4
    assert result.segments == [
        Segment(id=1, category_id=0, isthing=True),
        Segment(id=2, category_id=0, isthing=True),
        Segment(id=3, category_id=2, isthing=False),
    ]


def test_panoptic_pixel_goes_to_the_best_score_times_probability():
    # Both masks hold all pixels: .85 * .90 = .765 against .95 * .85 = .8075.
    masks = [torch.full((2, 2), math.log(p / (1 - p))) for p in (0.90, 0.85)]
    output = segmentation_output([class_row(0, 0.85, 2), class_row(1, 0.95, 2)], masks)
    (result,) = panoptic(output, [0, 1])
    assert result.segments == [Segment(id=1, category_id=1, isthing=True)]


def test_panoptic_thresholds_decide_what_is_kept():
    output = segmentation_output(
        [class_row(0, 0.9, 2), class_row(1, 0.7, 2)], [column_mask({0, 1, 2}), column_mask({2, 3})]
    )
    # Query 1 scores .7 and keeps column 3, half of its mask.
    columns = {
        thresholds: panoptic(output, [0, 1], *thresholds)[0].segmentation[0].tolist()
        for thresholds in ((0.8, 0.8), (0.6, 0.8), (0.6, 0.5))
    }
    assert columns == {
        (0.8, 0.8): [1, 1, 1, 0, 0, 0, 0, 0],
        (0.6, 0.8): [1, 1, 1, 0, 0, 0, 0, 0],
        (0.6, 0.5): [1, 1, 1, 2, 0, 0, 0, 0],
    }


def test_panoptic_overlap_counts_won_pixels_outside_the_mask_too():
    # Query 1 holds columns 2 to 6 and loses 2 and 3 to query 0: 3/5 of its mask, dropped. Where it
    # also wins column 7, outside of every mask, it has 4/5, which meets the threshold of 0.8.
    masks = [column_mask({0, 1, 2, 3}), column_mask({2, 3, 4, 5, 6})]
    classes = [class_row(0, 0.95, 2), class_row(1, 0.9, 2)]
    (dropped,) = panoptic(segmentation_output(classes, masks), [0, 1])
    assert dropped.segmentation[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    masks[1][:, 7] = -1.0
    (kept,) = panoptic(segmentation_output(classes, masks), [0, 1])
    assert kept.segmentation[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]


def test_panoptic_without_a_confident_query_is_void():
    output = segmentation_output([class_row(0, 0.5, 2)], [column_mask({0})])
    (result,) = panoptic(output, [0])
    assert result.segments == []
    assert not result.segmentation.any()


def test_panoptic_answers_per_image():
    single = segmentation_output([class_row(0, 0.9, 2)], [column_mask({1})])
    other = segmentation_output([class_row(1, 0.9, 2)], [column_mask({2, 3})])
    batch = SegmentationOutput(
        semantic=torch.cat((single.semantic, other.semantic)),
        masks=torch.cat((single.masks, other.masks)),
        class_logits=torch.cat((single.class_logits, other.class_logits)),
    )
    first, second = panoptic(batch, [0])
    assert first.segments == [Segment(id=1, category_id=0, isthing=True)]
    assert second.segments == [Segment(id=1, category_id=1, isthing=False)]
    assert second.segmentation[0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def two_query_output() -> SegmentationOutput:
    class_logits = torch.tensor([[0.6, 0.3, 0.05, 0.05], [0.1, 0.2, 0.5, 0.2]]).log()
    masks = [torch.tensor([[2.0, -1.0], [0.0, 4.0]]), torch.full((2, 2), -3.0)]
    return segmentation_output(class_logits.tolist(), masks)


def test_instances_are_the_best_pairs_of_query_and_class():
    (result,) = instances(two_query_output(), topk=3)
    # The best pairs: query 0 as class 0 (.6), query 1 as class 2 (.5), query 0 as class 1 (.3).
    assert result.category_ids.tolist() == [0, 2, 1]
    mask, empty = [[True, False], [False, True]], [[False, False], [False, False]]
    assert result.masks.tolist() == [mask, empty, mask]
    inside = (1 / (1 + math.exp(-2.0)) + 1 / (1 + math.exp(-4.0))) / 2
    expected = torch.tensor([0.6 * inside, 0.0, 0.3 * inside])
    # The official 1e-6 in the denominator, 2 pixels here, shifts a score by 5e-7 at most.
    torch.testing.assert_close(result.scores, expected, rtol=0, atol=1e-6)


def test_instances_select_things_among_the_best_pairs():
    # The thing filter comes after the top 2, so the second place stays empty.
    (result,) = instances(two_query_output(), topk=2, thing_ids=[0, 1])
    assert result.category_ids.tolist() == [0]
    (none,) = instances(two_query_output(), topk=1, thing_ids=[1])
    assert none.masks.shape == (0, 2, 2)
    assert none.scores.shape == (0,)


def test_instances_are_at_most_all_pairs():
    (result,) = instances(two_query_output(), topk=100)
    assert result.category_ids.tolist().count(0) == 2
    assert len(result.scores) == 6


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda o: panoptic(o, [0], overlap_threshold=1.5),
            r"overlap_threshold must lie in \[0, 1\]",
        ),
        (lambda o: panoptic(o, [3]), r"thing_ids must lie in 0\.\.2, got 3"),
        (lambda o: instances(o, topk=0), "topk must be at least 1, got 0"),
        (lambda o: instances(o, thing_ids=[-1]), r"thing_ids must lie in 0\.\.2, got -1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(two_query_output())
