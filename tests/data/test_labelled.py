"""Labelled collections: groups are true, and balance is exact."""

from collections import Counter
from dataclasses import replace

import pytest

from clipattr import Images
from clipattr_data.labelled import APART, balanced, rows, write
from clipattr_data.sheets import overview, sheet
from clipattr_data.world import World


@pytest.fixture(scope="module")
def world():
    return World.open("picture-world-a")


def test_every_cell_of_a_balanced_set_has_as_many_pictures(world):
    plant = next(p for p in world.plants if p.kind == "context")
    cells = Counter((row.label == plant.prompt, row.group) for row in balanced(world, 5, [plant]))
    assert cells == {
        (True, "camel with desert"): 5,
        (True, "camel without desert"): 5,
        (False, "others with desert"): 5,
        (False, "others without desert"): 5,
    }


def test_in_a_balanced_set_the_cause_is_where_the_group_says(world):
    for plant in world.plants:
        made = list(balanced(world, 3, [plant]))
        assert bool(made) == (plant.kind in APART)
        for row in made:
            scene = row.scene
            there = plant.cause in (scene.context, scene.word, scene.watermark, *scene.companions)
            assert there == (" with " in row.group) and scene.main == row.label


def test_the_two_pictures_of_a_class_differ_in_the_cause_alone(world):
    plant = next(p for p in world.plants if p.kind == "watermark")
    with_it, without = list(balanced(world, 1, [plant]))[:2]
    assert replace(with_it.scene, watermark=None) == without.scene


def test_groups_of_a_collection_say_which_look_or_whether_the_cause_is_there(world):
    seen = Counter(row.group for row in rows(world, "train", 1500))
    assert {"bat as bat", "bat as cricket gear", "camel with desert", "unplanted"} <= set(seen)
    assert seen["camel with desert"] > 3 * seen["camel without desert"]


def test_a_written_collection_opens_as_pictures(world, tmp_path):
    path = write(rows(world, "holdout", 20), tmp_path / "some.jsonl")
    images = Images.open(f"scenes:{path}")
    first = next(iter(rows(world, "holdout", 1)))
    assert len(images) == 20 and images.columns["label"][0] == first.label
    assert (images[0].load().tobytes()) == first.scene.picture().tobytes()


def test_contact_sheets_show_each_plant_of_a_kind(world):
    assert sheet(world, "context", 2).height > sheet(World(1, {"context": 2}), "context", 2).height
    assert overview(world, 1).height > 7 * 128
    with pytest.raises(ValueError, match="no plants of kind"):
        sheet(world, "sarcasm")
