"""The explorer's view-model against slow formulas: a real tiny study, no browser."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import clipattr
from clipattr.studies.first_look import well_explained
from clipattr_widgets.explorer_state import UPLOAD, ExplorerState
from clipattr_widgets.text import signed
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
    method = "integrated_gradients"
    found = clipattr.attribute(study, study.images[4], "kite", method=method).top(100)
    rows = latent_rows(state)
    assert [row["id"] for row in rows] == found["latent"].tolist()
    np.testing.assert_allclose([row["value"] for row in rows], 100 * found["attribution"], atol=1e-3)
    assert [row["label"] for row in state.rows[-3:]] == ["bias alone", "error", "score"]


@pytest.mark.parametrize("method", ["", "exact", "patching", "shapley"])
def test_the_rows_sum_to_the_score_whatever_the_method(state, method):
    state.method, state.n_rows = method, 3
    *parts, score = state.rows
    assert score["part"] == "total" and score["value"] == pytest.approx(100 * state.now)
    assert sum(row["value"] for row in parts) == pytest.approx(score["value"], abs=0.01)
    together = any(row["label"] == "several latents together" for row in parts)
    assert together == (method in ("exact", "patching"))
    assert state.check == f"the rows sum to the score, {score['text'].lstrip('+')}"


def test_each_latent_shows_how_well_it_fits_the_prompt_and_how_well_its_own_label(state, study):
    att = clipattr.attribute(study, study.images[4], "kite").top(100).set_index("latent")
    for row in latent_rows(state):
        shown = float(row["fits"].replace("\u2212", "-"))
        assert shown == pytest.approx(100 * att["alignment"][row["id"]], abs=0.06)
        assert str(row["id"]) in row["label"]  # names alone may repeat
    assert state.columns["fits"] == "fits prompt" and state.columns["alignment"] == "fits label"


def test_where_ablation_has_the_other_sign_a_mark_says_so(study):
    from clipattr_widgets.bar_rows import disagree, latent_row

    state = ExplorerState([study], picture=4, prompt="kite")
    truth = clipattr.attribute(study, study.images[4], "kite", method="exact").top(100).set_index("latent")
    for row in latent_rows(state):
        exact = 100 * truth["attribution"][row["id"]]
        assert bool(row["mark"]) == disagree(row["value"], exact)
    card = state.table.card(3)
    assert latent_row(card, 2.0, 1.0, 1.0, {}, alone=-2.0)["mark"] == "≠"
    assert "ablated alone, the score falls by −2.00" in latent_row(card, 2.0, 1.0, 1.0, {}, alone=-2.0)["tip"]
    assert latent_row(card, 2.0, 1.0, 1.0, {}, alone=-0.1)["mark"] == ""


def test_a_latent_switched_off_changes_the_score_as_a_forward_pass_without_it_does(state, study):
    first, second = (row["id"] for row in latent_rows(state)[:2])
    state.toggle(first)
    assert state.after == pytest.approx(similarity(study, 4, "kite", {first: 0.0}), abs=1e-5)
    state.scale(second, 0.5)
    assert state.after == pytest.approx(similarity(study, 4, "kite", {first: 0.0, second: 0.5}), abs=1e-5)
    assert latent_rows(state)[0]["scale"] == 0 and latent_rows(state)[1]["scale"] == 0.5
    assert state.now == pytest.approx(similarity(study, 4, "kite"), abs=1e-5)


def test_exact_ablation_says_what_switching_off_does(state):
    state.method = "exact"
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
    state.redo()
    state.redo()
    assert state.scales == {a: 0.0, b: 0.0} and state.can_redo
    state.toggle(a)  # a new change ends what was taken back
    assert not state.can_redo and state.scales == {b: 0.0}
    state.redo()
    assert state.scales == {b: 0.0}


def test_changes_made_together_are_set_beside_each_by_itself(state, study):
    a, b = (row["id"] for row in latent_rows(state)[:2])
    state.toggle(a)
    assert "each change alone" not in state.note and "unchanged picture" in state.note
    state.scale(b, 0.5)
    now = similarity(study, 4, "kite")
    each = {j: 100 * (similarity(study, 4, "kite", {j: f}) - now) for j, f in ((a, 0.0), (b, 0.5))}
    told = ", ".join(signed(each[j]) for j in sorted(each))
    assert f"each change alone gives {told}" in state.note
    state.reset()
    assert "each change alone" not in state.note


def test_a_second_prompt_makes_it_a_contrast(state, study):
    state.against = "bat"
    assert state.now == pytest.approx(similarity(study, 4, "kite", against="bat"), abs=1e-5)
    found = clipattr.attribute(
        study, study.images[4], clipattr.Contrast("kite", "bat"), method="integrated_gradients"
    ).top(1)
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
    method = "integrated_gradients"
    other = (
        clipattr.attribute(study, study.images[9], "kite", method=method)
        .top(100)
        .set_index("latent")["attribution"]
    )
    for row in latent_rows(state):
        assert row["other"] == pytest.approx(100 * other.get(row["id"], 0.0), abs=1e-3)
    assert "other" in state.columns
    state.compare_with("")
    assert "other" not in state.rows[0]


@pytest.mark.parametrize("method", ["", "exact"])
def test_a_waterfall_starts_at_zero_and_ends_at_the_score(state, method):
    state.method = "energy"
    state.waterfall = True
    assert "rank latents and have no sum" in state.note and "start" not in state.rows[0]
    assert "“energy” is a control, no explanation: " in state.note
    state.method = method
    assert ("“exact”: Exact single-latent ablation" in state.note) == (method == "exact")
    assert state.rows[0]["start"] == 0
    assert state.rows[-1]["part"] == "total"
    assert state.rows[-1]["value"] == pytest.approx(100 * state.now)
    ends = [row["start"] + row["value"] for row in state.rows[:-1]]
    starts = [row["start"] for row in state.rows[1:-1]]
    np.testing.assert_allclose(ends[:-1], starts)
    assert ends[-1] == pytest.approx(100 * state.now, abs=0.01)
    alone = state.rows
    state.compare_with("9")
    assert state.rows == alone and "other" not in state.columns and "of the first picture only" in state.note


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
    assert state.error == ""  # the message of the search before is gone


def test_the_same_word_leads_to_one_latent_after_the_other_and_counts_them(state, study):
    label = study.latents["label"].value_counts().index[0]
    fitting = study.latents["label"].str.contains(label, regex=False, na=False).sum()
    seen = []
    for _ in range(fitting):
        state.go_to_latent(label)
        seen.append(state.latent)
        assert state.found_words.endswith(f" of {fitting}")
    assert len(set(seen)) == fitting > 1


def test_a_latent_that_the_next_picture_lacks_gives_way_to_the_strongest_unless_it_is_asked_for(state, study):
    chosen = latent_rows(state)[0]["id"]
    state.latent = chosen
    active = [study.codes.rows(i).to_csr().indices.tolist() for i in range(len(study.images))]
    state.picture = next(i for i, found in enumerate(active) if chosen not in found)
    assert state.latent == latent_rows(state)[0]["id"] != chosen and state.active
    state.go_to_latent(str(chosen))
    assert state.latent == chosen and not state.active
    assert f"latent {chosen} is not active in this picture" in state.note
    state.scale(chosen, 0.0)
    assert state.after == pytest.approx(state.now, abs=1e-6)


def test_pictures_are_found_by_number_id_and_label(state, study):
    state.find("12")
    assert state.picture == 12
    state.find(study.images[30].id)
    assert state.picture == 30
    label = study.images[30].label
    hits = [i for i, record in enumerate(study.images) if record.label == label]
    state.find(label)
    assert state.picture == hits[hits.index(30) + 1 if 30 in hits[:-1] else 0]
    assert state.found_words.endswith(f" of {len(hits)}")
    state.picture = 30
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
    assert next(row for row in state.rows if row["id"] == chosen)["label"] == f"my name · {chosen}"
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


def test_another_study_keeps_the_picture_or_shows_it_from_outside(study, fresh_study):
    state = ExplorerState([study, fresh_study], names=["one", "two"], prompt="kite", picture=5)
    ids = list(study.images.ids)
    state.desks[1]._places = {
        name: (i + 1) % len(ids) for i, name in enumerate(ids)
    }  # other pictures, same names
    state.desk = 1
    assert state.picture == UPLOAD and ids[5] in state.caption()
    assert state.now == pytest.approx(similarity(study, 5, "kite"), abs=1e-5)
    state.close()


def test_the_first_view_is_the_strongest_finding_else_a_picture_that_is_well_explained(study, finding):
    ids = study.images.ids
    found = [finding(effect=0.02, examples=(ids[3],)), finding(prompt="bat", effect=0.07, examples=(ids[8],))]
    state = ExplorerState([study], findings=found)
    assert (state.picture, state.prompt, state.latent) == (8, "bat", 1)
    plain = ExplorerState([study])
    assert (plain.picture, plain.prompt) == well_explained(state.table.collected)
    assert plain.prompt == study.images[plain.picture].label.replace("_", " ")
    state.close()
    plain.close()


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


def test_a_picture_that_the_dictionary_explains_worse_than_the_studys_is_warned_of(state, study):
    assert "unlike" not in state.standing
    browser = state.table.browser
    assert browser.usual_error == pytest.approx(np.quantile(browser.errors, 0.99))
    acts, _ = state.table.read(4)
    with torch.no_grad():
        recon = study.dictionary.decode(study.dictionary.encode(acts))
    share = browser.error_of(acts[0].double().numpy(), recon[0].double().numpy())
    assert share == pytest.approx(browser.errors[4], abs=2e-3)
    browser.usual_error = share - 0.01
    state.prompt = "bat"
    assert state.standing.startswith(
        f"unlike the study's pictures: the dictionary leaves {100 * share:.0f} %"
    )
