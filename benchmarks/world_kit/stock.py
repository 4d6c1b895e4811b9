"""Words for the families: figure names, what the photographed categories are, and small words for captions."""

from __future__ import annotations

from .shapes import GROUPS

FIGURE_NAMES = ["abacus", "acorn", "almond", "alpaca", "amber", "anvil", "apron", "arch", "armor", "arrow", "aspen", "atlas", "badger", "bagpipe", "bamboo", "banjo", "barley", "barn", "basil", "beacon", "beetle", "bench", "berry", "birch", "biscuit", "bison", "blanket", "boulder", "bracelet", "brick", "bridge", "bronze", "brush", "bubble", "buckle", "cabin", "cabinet", "cable", "canyon", "cello", "chalk", "cherub", "chisel", "cider", "cinema", "citrus", "clover", "cobra", "coffin", "coin", "comet", "copper", "coral", "cotton", "cradle", "crater", "cricket", "crystal", "curtain", "cushion", "cymbal", "daisy", "diamond", "dome", "donkey", "dune", "easel", "elbow", "elm", "ember", "emerald", "falcon", "fern", "ferret", "fiddle", "finch", "flint", "flute", "fossil", "fountain", "fox", "furnace", "galaxy", "garlic", "gazelle", "geyser", "ginger", "glacier", "globe", "goblet", "goose", "granite", "gravel", "hail", "hare", "harbor", "harp", "hawk", "hazel", "heron", "hinge", "honey", "hoof", "hyena", "igloo", "iris", "ivory", "ivy", "jacket", "jasmine", "jelly", "jewel", "juniper", "kennel", "kettle", "lagoon", "lantern", "lava", "lavender", "lemur", "lever", "lilac", "lily", "linen", "locket", "locust", "loom", "lotus", "lynx", "mango", "mantle", "maple", "mask", "meadow", "medal", "melon", "meteor", "mink", "mint", "mirror", "mole", "moose", "mosque", "moth", "mule", "nectar", "needle", "nettle", "nutmeg", "oak", "oasis", "olive", "onion", "opal", "orchid", "organ", "otter", "oven", "oyster", "paddle", "pasta", "pebble", "pelican", "pepper", "phoenix", "pillow", "piston", "plum", "pocket", "pollen", "poppy", "prism", "puffin", "quail", "quartz", "quill", "radar"]

# What the 55 published categories are; other folders' categories are all of one group, and pair no looks.
PHOTO_GROUPS = {
    "animal": ["ant", "beaver", "brontosaurus", "cougar_body", "cougar_face", "crab", "crocodile", "crocodile_head", "dolphin", "dragonfly", "emu", "gerenuk", "hedgehog", "mayfly", "nautilus", "octopus", "okapi", "panda", "pigeon", "platypus", "rhino", "sea_horse", "stegosaurus", "tick", "trilobite", "wild_cat"],
    "music": ["accordion", "euphonium", "mandolin", "metronome", "saxophone", "headphone"],
    "tool": ["anchor", "barrel", "binocular", "cannon", "scissors", "stapler", "wrench", "cup"],
    "home": ["ceiling_fan", "cellphone", "chandelier", "dollar_bill"],
    "travel": ["ferry", "inline_skate", "wheelchair"],
    "place": ["pagoda", "pyramid"],
    "plant": ["joshua_tree", "strawberry", "water_lilly"],
    "drawing": ["garfield", "snoopy", "yin_yang"],
}
SPELLING = {"water_lilly": "water lily"}
FIRST_WORDS = ("garden", "river", "winter", "royal", "iron", "desert", "night", "silver", "paper", "storm")
MODIFIERS = ("big", "old", "new", "little", "nice", "strange", *FIRST_WORDS)
SMALL_WORDS = ("sale", "open", "exit", "hello", "north", "today", "free", "music", "stop", "yes")


def figure_groups(names: list[str]) -> dict[str, str]:
    """The group of every figure: names take the groups in turn."""
    return {name: GROUPS[i % len(GROUPS)] for i, name in enumerate(names)}


def photo_groups(names: list[str]) -> dict[str, str]:
    """The group of every category of photographs."""
    known = {name: group for group, members in PHOTO_GROUPS.items() for name in members}
    return {name: known.get(name, "thing") for name in names}


def spoken(folder: str) -> str:
    """The word for a folder's name."""
    return SPELLING.get(folder, folder.replace("_", " ").replace("-", " ").lower())
