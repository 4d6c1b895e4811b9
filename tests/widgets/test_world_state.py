"""The live world: what it says of a scene, against forward passes over scenes rendered again."""

import json
import math

import numpy as np
import pytest
import torch

import clipattr
from clipattr_data.drawing import names
from clipattr_data.scene import Scene, SceneError
from clipattr_widgets import WorldPanel, WorldState
from clipattr_widgets.desk import PanelError
from clipattr_widgets.text import signed
from clipattr_widgets.world_state import causes_of, things_of


@pytest.fixture(scope="module")
def rendered(tiny_model, tmp_path_factory):
    """A tiny study of rendered scenes; 24 latents, 6 active."""
    folder = tmp_path_factory.mktemp("scenes")
    concepts, contexts = names("concepts")[:6], names("contexts")[:3]
    lines = []
    for number in range(60):
        scene = Scene(
            concepts[number % 6], (concepts[(number + 1) % 6],) if number % 2 else (), contexts[number % 3],
            "cup" if number % 5 == 0 else None, seed=number,
        )  # fmt: skip
        lines.append(
            json.dumps({"id": f"s{number}", "label": scene.main, "scene": json.loads(scene.to_json())})
        )
    (folder / "scenes.jsonl").write_text("\n".join(lines))
    return clipattr.build_study(
        tiny_model, f"scenes:{folder / 'scenes.jsonl'}", path=folder / "study", evaluator=tiny_model,
        vocabulary=[*concepts, *contexts], n_latents=24, k=6, examples=8, progress=False, training={"steps": 40},
    )  # fmt: skip


@pytest.fixture
def state(rendered):
    made = WorldState(rendered, picture=5)
    yield made
    made.close()


def score(study, scene, prompt):
    model = study.model
    return float(model.encode_image(model.prepare(scene.picture())[None])[0] @ model.encode_text([prompt])[0])


def test_the_truth_of_a_cause_is_the_score_lost_when_the_scene_is_rendered_without_it(state, rendered):
    scene, prompt = state.scene, state.prompt
    assert [cause.part for cause in state.causes] == ["main", "companion", "context", "word"]
    without = [
        scene.without("main"),
        scene.without("companions"),
        scene.without("context"),
        scene.without("word"),
    ]
    for cause, other in zip(state.causes, without, strict=True):
        assert cause.truth == pytest.approx(
            score(rendered, scene, prompt) - score(rendered, other, prompt), abs=1e-5
        )


def test_attribution_of_a_cause_sums_to_what_the_change_of_its_latents_does_to_the_score(state, rendered):
    scene, study = state.scene, rendered
    model, target = study.model, study.model.encode_text([state.prompt])[0]
    pixels = torch.stack([model.prepare(s.picture()) for s in (scene, scene.without("context"))])
    acts = clipattr.activations(model, pixels, study.site)
    codes = study.dictionary.encode(acts).to_dense()
    changed = acts[:1] - (codes[:1] - codes[1:]) @ torch.as_tensor(study.dictionary.decoder)
    with torch.no_grad():
        with_it, without = clipattr.continue_from(model, study.site, torch.cat([acts[:1], changed])) @ target
    context = next(cause for cause in state.causes if cause.part == "context")
    assert context.codes == pytest.approx(float(with_it - without), abs=2e-5)


def test_latents_of_that_name_are_ablated_together_and_none_gives_no_number(state, rendered):
    for cause in state.causes:
        labels = rendered.latents["label"]
        mine = [int(j) for j in state.measured.latents if labels[int(j)] == cause.name]
        if not mine:
            assert math.isnan(cause.named)
            continue
        acts = state.measured.splice.acts
        codes = rendered.dictionary.encode(acts).to_dense()[0]
        less = acts - sum(codes[j] * torch.as_tensor(rendered.dictionary.decoder)[j] for j in mine)
        embedding = clipattr.continue_from(rendered.model, rendered.site, less)[0]
        left = float(embedding @ rendered.model.encode_text([state.prompt])[0])
        assert cause.named == pytest.approx(state.measured.y - left, abs=1e-5)


def test_objects_are_added_swapped_removed_and_moved(state):
    state.put("main", names("concepts")[9])
    state.put("context", "")
    state.put("watermark", names("watermarks")[0])
    state.put("1", names("concepts")[7])
    assert state.scene.main == names("concepts")[9] and state.scene.context is None
    assert state.scene.companions[1] == names("concepts")[7] and len(state.things) == 3 + bool(
        state.scene.word
    )
    before = [thing["box"] for thing in state.things]
    state.move(0, 3, 500)
    after = [thing["box"] for thing in state.things]
    assert after[0][0] == 3 and after[0][3] == 64 and after[1:] == before[1:]
    gen = state.gen
    state.move(0, 3, 500)
    assert state.gen == gen + 1  # the drag waits for an answer
    state.put("0", "")
    assert state.scene.companions[0] is None and state.current("1") == names("concepts")[7]
    state.shuffle()
    assert state.scene.places == () and [t["box"] for t in state.things] != after


def test_a_written_word_is_moved_like_an_object_and_the_move_is_taken_back(state):
    state.put("word", "tea")
    word = next(i for i, thing in enumerate(state.things) if thing["name"] == "the word tea")
    before = [thing["box"] for thing in state.things]
    state.move(word, 1, 2)
    after = [thing["box"] for thing in state.things]
    assert after[word][:2] == [1, 2] and after[:word] == before[:word] and state.scene.word_at == (1, 2)
    state.undo()
    assert [thing["box"] for thing in state.things] == before
    state.move(word, 1, 2)
    state.shuffle()
    assert state.scene.word_at is None and state.scene.word == "tea"


def test_every_edit_shows_the_new_score_and_the_change(state, rendered):
    before = state.measured.y
    state.put("context", "")
    assert state.measured.y == pytest.approx(score(rendered, state.scene, state.prompt), abs=1e-5)
    change = 100 * (state.measured.y - before)
    assert float(state.score_words()["change"].replace("−", "-")) == pytest.approx(change, abs=0.006)


def test_a_scene_edited_to_nothing_is_still_measured(state):
    for part in ("main", "context", "word", "watermark", "0"):
        state.put(part, "")
    assert state.causes == [] and state.rows and state.error == "" and state.things == []
    panel = WorldPanel(state=state)
    assert panel.causes.rows == [] and panel.static().png()


@pytest.mark.parametrize("word", ["this word is far too long to fit", "日本語", "<script>"])
def test_a_word_that_cannot_be_written_is_refused_in_words(state, word):
    before = state.scene
    state.put("word", word)
    assert state.error and state.scene == before


def test_a_study_of_photographs_is_refused(study):
    with pytest.raises(PanelError, match="live world edits rendered scenes"):
        WorldState(study)


def test_browser_messages_move_and_menus_follow_the_scene(rendered):
    panel = WorldPanel(rendered, picture=5)
    panel.stage._handle_custom_msg({"kind": "move", "i": 0, "left": 1, "top": 2}, [])
    assert panel.stage.meta["things"][0]["box"][:2] == [1, 2]
    panel.parts["context"].set_state({"index": 0})
    assert panel.state.scene.context is None
    panel.word.set_state({"value": "tea"})
    assert panel.state.scene.word == "tea"
    panel.start.set_state({"value": "8"})
    assert panel.parts["main"].value == panel.state.scene.main and panel.word.value == ""
    assert len(panel.causes.rows) == len(causes_of(panel.state.scene))
    panel.close()


def test_the_code_of_the_live_world_gives_the_numbers_on_the_screen(state, rendered, monkeypatch):
    monkeypatch.setattr(clipattr, "open_study", lambda path: rendered)
    scope = {}
    exec(state.code(), scope)
    context = next(cause for cause in state.causes if cause.part == "context")
    assert float(scope["truth"]) == pytest.approx(context.truth, abs=1e-5)
    assert float(scope["said"]) == pytest.approx(context.codes, abs=1e-5)


def test_moving_one_object_moves_nothing_else_and_is_kept_in_json():
    scene = Scene(
        "cow" if "cow" in names() else names()[0], (names()[1], names()[2]), names("contexts")[0], seed=4
    )
    moved = scene.moved(1, 40, 2)
    boxes = [thing.box for thing in scene.truth().objects]
    new = [thing.box for thing in moved.truth().objects]
    assert new[1][:2] == (40, 2) and [new[0], new[2]] == [boxes[0], boxes[2]]
    assert Scene.from_json(moved.to_json()) == moved
    np.testing.assert_array_equal(Scene.from_json(scene.to_json()).render(), scene.render())
    assert things_of(moved)[1]["number"] == 1
    with pytest.raises(SceneError, match=r"places are \[left, top\]"):
        Scene.from_json('{"places": [[1]]}')


def test_where_attribution_says_the_opposite_of_the_truth_a_mark_says_so():
    from clipattr_widgets.world_state import _beside

    assert _beside(-15.94, 39.97) == "≠ −15.94"
    assert _beside(15.94, 39.97) == "+15.94" and _beside(-0.2, 39.97) == "−0.20"


def test_edits_are_taken_back_made_again_and_the_picture_is_a_click_away(state):
    begun, score = state.scene, state.measured.y
    assert state.score_words()["since"] == "" and not state.can_undo
    state.put("word", "")
    state.put("context", "")
    edited, moved = state.scene, state.measured.y
    assert state.first == pytest.approx(score) and state.score_words()["since"] == signed(
        100 * (moved - score)
    )
    state.undo()
    assert state.scene.word is None and state.scene.context == begun.context
    state.redo()
    assert state.scene == edited and not state.can_redo
    state.restart()
    assert state.scene == begun and state.measured.y == pytest.approx(score)
    state.undo()
    assert state.scene == edited
    state.start_from("7")
    assert not state.can_undo and state.score_words()["since"] == ""


def test_beside_a_picture_from_outside_the_live_world_says_whose_scene_it_shows(rendered):
    from PIL import Image

    from clipattr_widgets import ExplorerPanel

    panel = ExplorerPanel(rendered, picture=Image.new("RGB", (40, 40), "red"), prompt="red", tabs=True)
    try:
        panel.tabs.show("Live world")
        world = panel.tabs.panels["Live world"]
        assert "comes from outside this study" in world.remark.value
        assert "own pictures" in world.remark.value and "comes from outside" in world.static().html
        panel.state.picture = 3
        assert world.state.note == "" and world.remark.value == ""
    finally:
        panel.close()
