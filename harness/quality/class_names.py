"""Class names of the data sets that the published weights are trained on, for legends.

Sources: cocodataset/panopticapi's ``panoptic_coco_categories.json`` (without its "-merged" and "-other"), and
Cityscapes' ``labels.py``.
"""

_COCO_THINGS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
    "zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports "
    "ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine "
    "glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot "
    "dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, "
    "vase, scissors, teddy bear, hair drier, toothbrush, "
)
_COCO_STUFF = (
    "banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, "
    "gravel, house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, "
    "roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, "
    "water, window-blind, window, tree, fence, ceiling, sky, cabinet, table, floor, pavement, "
    "mountain, grass, dirt, paper, food, building, rock, wall, rug, "
)
_CITYSCAPES_STUFF = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky"
)
_CITYSCAPES_THINGS = "person, rider, car, truck, bus, train, motorcycle, bicycle"


def _names(*parts: tuple[str, bool]) -> tuple[tuple[str, bool], ...]:
    return tuple((name.strip(), isthing) for text, isthing in parts for name in text.strip(" ,").split(","))


# Data set -> (name, whether it is a thing) of each class, in the network's order.
CLASS_NAMES = {
    "coco": _names((_COCO_THINGS, True), (_COCO_STUFF, False)),
    "cityscapes": _names((_CITYSCAPES_STUFF, False), (_CITYSCAPES_THINGS, True)),
}
