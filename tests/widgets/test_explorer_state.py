"""The explorer's view-model against slow formulas: a real tiny study, no browser."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import clipattr
from clipattr_widgets.explorer_state import UPLOAD, ExplorerState
from clipattr_widgets.worker import Worker


@pytest.fixture
def state(study):
    made = ExplorerState([study], picture=4, prompt="kite")
    yield made
    made.close()


def similarity(study, picture, prompt, scales=(), against=None):
    """Cosine after scaling latents, by a forward pass with the site's activation replaced."""
    model = study.model
    pixels = model.prepare(study.images[picture].load())[None]
    acts = clipattr.activations(model, pixels, study.site)
    codes = study.dictionary.encode(acts).to_dense()
    for latent, factor in dict(scales).items():
        acts = acts + (factor - 1) * codes[:, latent, None] * study.dictionary.decoder[latent]
    with torch.no_grad(), clipattr.replace(model, study.site, acts):
        image = model.encode_image(pixels)
    score = float(image @ model.encode_text([prompt])[0])
    return score - float(image @ model.encode_text([against])[0]) if against else score


def latent_rows(state):
    return [row for row in state.rows if row["part"] == "latent"]


def test_the_score_is_the_cosine_of_picture_and_prompt(state, study):
    assert state.now == pytest.approx(similarity(study, 4, "kite"), abs=1e-5)
    assert state.score_words()["now"] == f"{100 * state.now:.2f}".replace("-", "−")
    assert state.score_words()["unit"] == "points"


def test_rows_are_the_attribution_in_points_strongest_first(state, study):
    found = clipattr.attribute(study, study.images[4], "kite").top(100)
    rows = latent_rows(state)
    assert [row["id"] for row in rows] == found["latent"].tolist()
    np.testing.assert_allclose([row["value"] for row in rows], 100 * found["attribution"], atol=1e-3)
    assert [row["label"] for row in state.rows[-2:]] == ["bias", "error"]


def test_a_latent_switched_off_changes_the_score_as_a_forward_pass_without_it_does(state, study):
    first, second = (row["id"] for row in latent_rows(state)[:2])
    state.toggle(first)
    assert state.after == pytest.approx(similarity(study, 4, "kite", {first: 0.0}), abs=1e-5)
    state.scale(second, 0.5)
    assert state.after == pytest.approx(similarity(study, 4, "kite", {first: 0.0, second: 0.5}), abs=1e-5)
    assert latent_rows(state)[0]["scale"] == 0 and latent_rows(state)[1]["scale"] == 0.5
    assert state.now == pytest.approx(similarity(study, 4, "kite"), abs=1e-5)


def test_the_default_method_says_what_switching_off_does(state):
    row = latent_rows(state)[0]
    state.toggle(row["id"])
    assert 100 * (state.now - state.after) == pytest.approx(row["value"], abs=1e-3)


def test_undo_takes_back_one_change_at_a_time_and_then_nothing(state):
    a, b = (row["id"] for row in latent_rows(state)[:2])
    state.toggle(a)
    state.toggle(b)
    state.reset()
    assert state.scales == {} and state.can_undo
    state.undo()
    assert state.scales == {a: 0.0, b: 0.0}
    state.undo()
    state.undo()
    assert state.scales == {} and state.after == state.now and not state.can_undo
    state.undo()


def test_a_second_prompt_makes_it_a_contrast(state, study):
    state.against = "bat"
    assert state.now == pytest.approx(similarity(study, 4, "kite", against="bat"), abs=1e-5)
    found = clipattr.attribute(study, study.images[4], clipattr.Contrast("kite", "bat")).top(1)
    assert latent_rows(state)[0]["id"] == found["latent"][0]


def test_changes_stay_when_the_picture_changes_and_absent_latents_are_counted(state, study):
    chosen = latent_rows(state)[0]["id"]
    state.toggle(chosen)
    without = next(
        i for i in range(len(study.images)) if chosen not in study.codes.rows(i).to_csr().indices.tolist()
    )
    state.picture = without
    assert "1 latent changed; 1 of them not active in this picture" in state.note
    assert state.after == pytest.approx(state.now, abs=1e-6)


def test_a_second_picture_is_laid_beside_the_first(state, study):
    state.compare_with("9")
    other = clipattr.attribute(study, study.images[9], "kite").top(100).set_index("latent")["attribution"]
    for row in latent_rows(state):
        assert row["other"] == pytest.approx(100 * other.get(row["id"], 0.0), abs=1e-3)
    assert "other" in state.columns
    state.compare_with("")
    assert "other" not in state.rows[0]


def test_waterfall_ends_at_the_score_and_only_where_parts_add_up(state):
    state.waterfall = True
    assert "do not add up" in state.note
    state.method = "integrated_gradients"
    assert state.rows[-1]["part"] == "total"
    assert state.rows[-1]["value"] == pytest.approx(100 * state.now)
    ends = [row["start"] + row["value"] for row in state.rows[:-1]]
    starts = [row["start"] for row in state.rows[1:-1]]
    np.testing.assert_allclose(ends[:-1], starts)
    assert ends[-1] == pytest.approx(100 * state.now, abs=1e-6)
    alone = state.rows
    state.compare_with("9")
    assert state.rows == alone and "other" not in state.columns and "first picture alone" in state.note


def test_methods_that_only_rank_have_no_bias_row_and_keep_the_scores_unit(state):
    state.method = "energy"
    assert {row["label"] for row in state.rows}.isdisjoint({"bias", "error"})
    assert state.columns["value"] == "rank value"
    assert state.score_words()["unit"] == "points"


@pytest.mark.parametrize(
    ("prompt", "against", "words"),
    [("", "", "Write a prompt"), ("   ", "", "Write a prompt"), ("kite", "kite", "rather than itself"),
     ("word " * 2000, "", "too long")],
)  # fmt: skip
def test_a_prompt_that_cannot_be_used_is_answered_in_words_and_the_next_one_works(
    state, prompt, against, words
):
    with state.hold_trait_notifications():
        state.prompt, state.against = prompt, against
    assert words in state.error
    assert state.rows == [] and math.isnan(state.now)
    with state.hold_trait_notifications():
        state.prompt, state.against = "kite", ""
    assert state.error == "" and state.rows


def test_a_prompt_beyond_the_models_tokens_is_refused_in_words_not_cut_silently(state):
    state.prompt = "kite and bat " * 30
    assert "token" in state.error


def test_choosing_a_latent_brings_its_examples_strongest_first(state, study):
    chosen = latent_rows(state)[1]["id"]
    state.latent = chosen
    assert state.card.latent == chosen
    assert list(state.examples.places) == study.examples.of(chosen)
    values = [float(caption) for caption in state.examples.captions]
    assert values == sorted(values, reverse=True)
    assert all(
        str(place) in alt for place, alt in zip(state.examples.places, state.examples.alt, strict=True)
    )


def test_latents_are_found_by_number_and_by_words(state, study):
    state.go_to_latent("11")
    assert state.latent == 11
    state.go_to_latent("9999")
    assert "does not exist" in state.error and state.latent == 11
    label = study.latents["label"].dropna().iloc[-1]
    state.go_to_latent(label.upper())
    assert label in (study.latents["label"][state.latent], study.latents["name"][state.latent])


def test_pictures_are_found_by_number_id_and_label(state, study):
    state.find("12")
    assert state.picture == 12
    state.find(study.images[30].id)
    assert state.picture == 30
    state.find("no such thing <b>")
    assert "No picture" in state.error and state.picture == 30
    state.picture = len(study.images) - 1
    state.step(1)
    assert state.picture == 0


def test_an_upload_is_measured_like_the_same_picture_of_the_study(state, study):
    now = state.now
    state.upload(Path(study.images[4].path).read_bytes(), "mine.png")
    assert state.picture == UPLOAD and state.now == pytest.approx(now, abs=1e-6)
    assert "mine.png" in state.caption()


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<script>alert(1)</script>", b"\xff\xd8\xff\xe0" + b"0" * 50]
)
def test_an_upload_that_is_no_picture_changes_nothing_but_the_message(state, data):
    before = (state.picture, state.now, state.rows)
    state.upload(data, "evil\u202e.png<script>")
    assert "cannot be used" in state.error and "\u202e" not in state.error
    assert (state.picture, state.now, state.rows) == before


def test_a_rename_is_kept_in_the_study_and_shown_at_once(fresh_study, tiny_model):
    state = ExplorerState([fresh_study], prompt="kite")
    chosen = state.latent
    state.rename(chosen, "my name")
    assert next(row for row in state.rows if row["id"] == chosen)["label"] == "my name"
    assert state.card.name == "my name"
    again = clipattr.open_study(fresh_study.path, model=tiny_model, evaluator=tiny_model)
    assert again.names[chosen] == "my name"
    state.rename(chosen, "")
    assert state.card.given is None


def test_a_study_whose_weights_are_missing_can_be_browsed(fresh_study):
    import json

    manifest = json.loads((fresh_study.path / "study.json").read_text())
    for role in ("model", "evaluator"):
        manifest[role]["reference"] = "local-dir:/nowhere/at/all"
    (fresh_study.path / "study.json").write_text(json.dumps(manifest))
    state = ExplorerState(
        [clipattr.open_study(fresh_study.path, images=fresh_study.images)], prompt="kite", latent=3
    )
    assert state.error.startswith("Browsing only") and state.rows == []
    assert state.examples.thumbnails and state.card.latent == 3
    assert state.pixels() is not None


def test_thumbnails_still_show_when_the_pictures_are_gone(fresh_study, tmp_path):
    moved = clipattr.open_study(fresh_study.path, model=fresh_study.model, evaluator=fresh_study.model)
    for record in moved.images:
        assert record.path
    moved.images.source.read = lambda *_: (_ for _ in ()).throw(clipattr.DataError("no such file"))
    state = ExplorerState([moved], prompt="kite", latent=2)
    assert state.pixels().size[0] > 1
    assert all(thumb.size[0] > 1 for thumb in state.examples.thumbnails)
    assert "no such file" in state.error


def test_an_empty_list_of_studies_is_refused():
    with pytest.raises(ValueError, match="got no study"):
        ExplorerState([])


def test_two_studies_are_switched_without_mixing_their_latents(study, fresh_study):
    state = ExplorerState([study, fresh_study], names=["one", "two"], prompt="kite", picture=5)
    state.toggle(latent_rows(state)[0]["id"])
    state.desk = 1
    assert state.scales == {} and not state.can_undo and state.picture == 5
    assert state.now == pytest.approx(similarity(fresh_study, 5, "kite"), abs=1e-5)


def test_the_code_runs_and_gives_the_same_numbers(state, study, monkeypatch):
    state.against = "bat"
    state.toggle(latent_rows(state)[0]["id"])
    monkeypatch.setattr(clipattr, "open_study", lambda path: study)
    scope = {}
    exec(state.code(), scope)
    top = scope["att"].top(3)
    assert top["latent"].tolist() == [row["id"] for row in latent_rows(state)[:3]]
    assert scope["after"] == pytest.approx(state.after, abs=1e-5)


def test_answers_that_come_late_are_dropped(study):
    state = ExplorerState([study], prompt="kite", threaded=True)
    for number in range(12):
        state.picture = number
    state.prompt = "bat"
    state.settle(30)
    assert state.pending == 0
    assert state.now == pytest.approx(similarity(study, 11, "bat"), abs=1e-5)
    state.picture = 3
    gen = state.gen
    state.close()
    state.settle(5)
    assert state.gen == gen


def test_latents_switched_while_another_prompt_is_measured_belong_to_its_score(study):
    state = ExplorerState([study], picture=4, prompt="kite", threaded=True)
    state.settle(30)
    first = latent_rows(state)[0]["id"]
    for prompt, scales in (("bat", {first: 0.0}), ("kite", {})):  # switched off, later on again
        state.prompt = prompt
        state.toggle(first)
        state.settle(30)
        assert state.now == pytest.approx(similarity(study, 4, prompt), abs=1e-5)
        assert state.after == pytest.approx(similarity(study, 4, prompt, scales), abs=1e-5)
    state.close()


def test_the_newest_request_of_a_lane_wins_and_errors_come_home():
    worker, heard = Worker(threaded=True), []
    for number in range(5):
        worker.submit("a", lambda n=number: n, heard.append, lambda e: heard.append(str(e)))
    worker.submit("b", lambda: 1 / 0, heard.append, lambda e: heard.append(str(e)))
    worker.settle(10)
    assert heard == [4, "division by zero"] or heard == ["division by zero", 4]
    worker.close()
    assert worker.submit("a", lambda: 1, heard.append, heard.append) == -1
    assert len(heard) == 2
