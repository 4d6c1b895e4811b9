"""Latent, prompt and findings view-models against slow formulas on a real tiny study."""

import numpy as np
import pytest
import torch

import clipattr
from clipattr.discovery.findings import Finding
from clipattr.errors import SiteError
from clipattr.statistics import Interval
from clipattr.studies.collected import Collected
from clipattr.studies.first_look import well_explained
from clipattr_widgets import ExplorerState, FindingsState, LatentState, PromptState
from clipattr_widgets.desk import Desk


@pytest.fixture(scope="module")
def collection(study):
    return Collected(study)


def test_scores_of_all_pictures_are_their_cosines(collection, study):
    pixels = torch.stack([study.model.prepare(record.load()) for record in study.images])
    with torch.no_grad():
        expected = study.model.encode_image(pixels) @ study.model.encode_text(["kite"])[0]
    found = collection.scores(Desk(collection.study).target("kite"))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)  # activations are kept in float16


def test_a_prompt_rests_on_the_mean_of_what_single_pictures_say(collection, study):
    found = collection.rests_on("red disc", Desk(collection.study).target("red disc"))
    assert found.chosen_by == "labelled “red disc”" and len(found.rows) == 20
    slow = np.zeros(study.dictionary.n_latents)
    for row in found.rows:
        for entry in clipattr.attribute(study, study.images[int(row)], "red disc").to_frame().itertuples():
            slow[entry.latent] += entry.attribution / len(found.rows)
    np.testing.assert_allclose(found.means, slow[found.latents], atol=1e-4)
    assert (np.diff(np.abs(found.means)) <= 1e-12).all()


def test_pictures_for_a_prompt_without_label_are_chosen_by_the_evaluator_not_by_the_score(collection, study):
    rows, how = collection.chosen_for("kite", 10)
    assert "evaluator" in how
    slow = (
        np.asarray(study.evaluator_embeddings, np.float32) @ study.evaluator.encode_text(["kite"])[0].numpy()
    )
    assert rows.tolist() == np.argsort(-slow, kind="stable")[:10].tolist()


def test_pictures_by_use_are_those_where_ablating_the_latent_costs_most(collection, study):
    latent = int(np.bincount(study.codes.to_csr().indices).argmax())
    rows, values = collection.by_use(latent, Desk(collection.study).target("kite"), 5)
    frame = clipattr.attribute(study, list(study.images), "kite").to_frame()
    own = frame[frame["latent"] == latent].set_index("picture")["attribution"]
    assert values[0] == pytest.approx(own.max(), abs=1e-4)
    for row, value in zip(rows, values, strict=True):
        assert value == pytest.approx(own[study.images[int(row)].id], abs=1e-4)


def test_users_of_a_latent_are_contrasts_against_the_mean_prompt(collection, study):
    latent = int(np.bincount(study.codes.to_csr().indices).argmax())
    users = dict(collection.users(latent, 100))
    rows, _ = collection.active_rows(latent)
    model, texts = study.model, collection.texts
    acts = torch.from_numpy(np.asarray(study.activations[rows[:48]], np.float32))
    text = model.encode_text(texts)
    text = text - text.mean(0)
    amounts = study.codes.rows(torch.from_numpy(rows[:48])).to_dense()[:, latent, None].float()
    with torch.no_grad():
        before = clipattr.continue_from(model, study.site, acts) @ text.T
        after = (
            clipattr.continue_from(model, study.site, acts - amounts * study.dictionary.decoder[latent])
            @ text.T
        )
    expected = (before - after).mean(0)
    for name, value in users.items():
        assert value == pytest.approx(float(expected[texts.index(name)]), abs=1e-5)


def test_at_another_site_questions_about_all_pictures_are_refused_with_advice(study):
    held = {name: getattr(study, name) for name in ("model", "images", "dictionary")}
    elsewhere = type("Elsewhere", (), held | {"site": clipattr.Site("image.-2.cls")})()
    with pytest.raises(SiteError, match=r"build a study at image\.-1\.cls"):
        Collected(elsewhere).splice(np.arange(3), None)


def test_a_score_stands_among_the_other_pictures_and_its_prompt_among_the_labels(collection, study):
    target = Desk(study).target("red disc")
    scores = collection.scores(target)
    pixels = study.model.prepare(study.images[4].load())[None]
    embedding = study.model.encode_image(pixels)[0]
    found = collection.standing(float(scores[4]), target, embedding, picture=4)
    others = np.delete(scores, 4)
    assert found.pictures == 59 and found.below == pytest.approx((others < scores[4]).mean())
    label = study.images[4].label
    same = [i for i, record in enumerate(study.images) if record.label == label]
    assert found.label_mean == pytest.approx(scores[same].mean(), abs=1e-6)
    words = collection.label_words
    assert "red disc" in words  # a label is no rival of itself
    rivals = (study.model.encode_text([w for w in words if w != "red disc"]) @ embedding).tolist()
    assert found.prompts == len(words) and found.rank == 1 + sum(r > scores[4] + 1e-6 for r in rivals)
    other = collection.standing(0.0, Desk(study).target("a red disc"), embedding)
    assert other.prompts == len(words) + 1


def test_the_picture_to_begin_with_scores_highest_for_its_own_label_and_rests_on_latents(collection, study):
    first, label = well_explained(collection)
    words = collection.label_words
    assert label == study.images[first].label.replace("_", " ")
    scores = {word: collection.scores(Desk(study).target(word))[first] for word in words}
    assert max(scores, key=scores.get) == label


def test_without_labels_the_first_word_is_that_of_latents_and_scores_highest_on_the_picture(
    study, monkeypatch
):
    monkeypatch.setitem(study.images.columns, "label", [None] * len(study.images))
    bare = Collected(study)
    first, word = well_explained(bare)
    frame = study.latents
    words = frame["label"][frame["aligned"]].unique().tolist()
    scores = {other: bare.scores(Desk(study).target(other))[first] for other in words}
    assert word in words and max(scores, key=scores.get) == word
    state = ExplorerState([study])
    assert (state.picture, state.prompt) == (first, word)
    state.close()
    state = ExplorerState([study], picture=5)
    assert state.prompt in words and state.prompt in {row["tip"].split(" · ")[1] for row in state.rows[:8]}
    state.close()


# latent


@pytest.fixture
def latent_state(study):
    return LatentState(study, latent=int(np.bincount(study.codes.to_csr().indices).argmax()))


def test_the_histogram_counts_every_active_picture_once(latent_state, study):
    counts, edges = latent_state.histogram
    column = study.codes.to_dense()[:, latent_state.latent]
    assert sum(counts) == int((column > 0).sum())
    assert edges[-1] == pytest.approx(float(column.max()))


def test_bands_go_from_strong_to_weak_and_cover_the_range(latent_state, study):
    latent_state.order = "bands"
    column = study.codes.to_dense()[:, latent_state.latent].numpy()
    values = [column[row] for row in latent_state.shelf.places]
    assert values == sorted(values, reverse=True)
    active = np.sort(column[column > 0])
    assert values[0] == active[-1] and values[-1] == active[0]
    assert len(set(latent_state.shelf.places)) == len(values)


def test_order_by_use_needs_a_prompt_and_says_so(latent_state):
    latent_state.order = "use"
    assert "Write a prompt" in latent_state.error
    latent_state.prompt = "kite"
    assert latent_state.shelf.captions and "kite" in latent_state.shelf.title


def test_heat_maps_come_one_for_each_example_on_one_scale(latent_state, study):
    latent_state.heat = True
    heat, shelf = latent_state.shelf.heat, latent_state.shelf
    assert list(heat.maps.shape) == [len(shelf.places), *study.model.grid]
    _, activations = latent_state.table.examples(latent_state.latent, len(shelf.places))
    # The strongest place of each picture is its activation, as a share of the strongest picture's.
    drawn, expected = heat.maps.max((1, 2)), activations / activations[0]
    driven = drawn > 0  # a latent may be read from no patch in particular
    assert driven.sum() > 3 and drawn[driven] == pytest.approx(expected[driven], abs=1e-3)
    assert heat.largest == pytest.approx(activations[0]) and heat.common


def test_words_neighbours_and_card_belong_to_the_latent(latent_state, study):
    latent_state.latent = 7
    assert latent_state.card.latent == 7
    assert [value for _, value in latent_state.words] == sorted(
        (v for _, v in latent_state.words), reverse=True
    )
    best, cosine = latent_state.nearest[0]
    decoder = study.dictionary.decoder
    others = decoder @ decoder[7]
    others[7] = -2
    assert best == int(others.argmax()) and cosine == pytest.approx(float(others.max()))


def test_a_latent_that_is_never_active_shows_emptiness_in_words(fresh_study):
    state = LatentState(fresh_study, latent=0)
    state.table.collected.active_rows = lambda latent: (np.zeros(0, np.int64), np.zeros(0))
    state.latent = 1
    assert state.histogram == ((), ()) and state.users == []
    for order in ("bands", "activation"):
        state.order = order
        assert state.error == ""


# prompt


def test_the_prompt_panel_lists_strongest_latents_then_the_rest(study):
    state = PromptState(study, prompt="red disc", n_rows=4)
    rows = state.rows
    assert [row["id"] for row in rows[:4]] == state.reliances.latents[:4].tolist()
    assert sum(row["value"] for row in rows) == pytest.approx(100 * state.reliances.means.sum())
    state.n_rows = 6
    assert len(state.rows) == 7


def test_senses_are_families_that_raise_the_prompt_on_pictures_where_they_do(study):
    state = PromptState(study, prompt="red disc")
    assert state.senses and all(sense.mean > 0 for sense in state.senses)
    first = state.senses[0]
    carried = np.asarray(state.reliances.values[:, list(first.latents)].sum(axis=1)).ravel()
    assert first.shelf.places[0] == state.reliances.rows[carried.argmax()]


def test_top_pictures_are_those_that_score_highest(study):
    state = PromptState(study, prompt="kite")
    scores = state.table.collected.scores(state.table.target("kite"))
    assert list(state.top.places) == np.argsort(-scores, kind="stable")[:12].tolist()


def test_a_prompt_that_cannot_be_used_clears_the_panel_and_says_why(study):
    state = PromptState(study, prompt="kite")
    state.prompt = " "
    assert "Write a prompt" in state.error and state.rows == [] and state.senses == []


# findings


def finding(prompt="kite", latents=(1, 2), kind="context", effect=0.05, **more):
    span = Interval(effect, effect - 0.01, effect + 0.01)
    values = {
        "label": "blue stripe", "kind_probability": 0.8, "reliance": span, "causal_effect": span, "share": 0.4,
        "alignment": -0.02, "clarity": 0.7, "confidence": 0.9, "examples": (), "evidence": {},
    }  # fmt: skip
    return Finding(prompt=prompt, latents=latents, kind=kind, **(values | more))


AUDIT = [
    finding("kite", (1, 2), "context", 0.05),
    finding("bat", (3,), "polysemy", 0.12, label="cricket"),
    finding("kite", (4,), "watermark", float("nan"), label=None),
    finding("<script>alert(1)</script>" + "z" * 10_000, (5,), "context", 0.01),
]


def ids(state):
    return [row["id"] for row in state.rows]


def test_findings_are_sorted_by_any_column_both_ways_a_missing_number_counts_least(fresh_study):
    state = FindingsState(fresh_study, AUDIT)
    assert ids(state) == [1, 0, 3, 2]
    state.sort("prompt")
    assert [AUDIT[i].prompt[:4] for i in ids(state)] == ["<scr", "bat", "kite", "kite"]
    state.sort("prompt")
    assert [AUDIT[i].prompt[:4] for i in ids(state)] == ["kite", "kite", "bat", "<scr"]
    state.sort("no such column")
    assert state.sorted_by == "prompt"


def test_findings_are_filtered_by_kind_effect_and_text(fresh_study):
    state = FindingsState(fresh_study, AUDIT)
    state.kind = "context"
    assert ids(state) == [0, 3]
    state.kind = "watermark"
    assert ids(state) == [2]
    state.kind, state.least = "", 3.0
    assert ids(state) == [1, 0]
    state.kind = "context"
    assert ids(state) == [0]
    state.kind, state.least, state.search = "", 0.0, "CRICK"
    assert ids(state) == [1]
    state.search = "nothing like this"
    assert state.rows == []


def test_a_verdict_and_its_note_are_kept_with_the_study(fresh_study):
    state = FindingsState(fresh_study, AUDIT)
    state.chosen = 1
    state.judge("accepted", "seen in <b>ten</b> pictures \u202e")
    again = FindingsState(fresh_study, AUDIT)
    verdict = again.verdict_of(AUDIT[1])
    assert (verdict.choice, verdict.note) == ("accepted", "seen in <b>ten</b> pictures \u202e")
    assert again.accepted() == [AUDIT[1]]
    again.verdict = "accepted"
    assert ids(again) == [1]
    again.chosen = 1
    again.judge("open")
    assert again.rows == [] and again.verdict_of(AUDIT[1]).note


def test_a_damaged_verdicts_file_is_named_and_not_overwritten(fresh_study):
    file = fresh_study.path / "verdicts.json"
    file.write_text("{broken")
    state = FindingsState(fresh_study, AUDIT)
    assert "damaged" in state.error and "verdicts.json" in state.error
    state.chosen = 0
    state.judge("accepted")
    assert file.read_text() == "{broken"


def test_examples_outside_the_study_are_never_opened(fresh_study):
    name = fresh_study.images.ids[3]
    state = FindingsState(fresh_study, [finding(examples=("/etc/passwd", "../../secret.png", name))])
    assert state.looked.found.places == (3,)


def test_text_of_findings_is_shown_short_and_harmless(fresh_study):
    state = FindingsState(fresh_study, AUDIT, search="script")
    assert len(state.rows[0]["cells"][0]) < 90
