"""Browsing: orders and filters against slow counts, selections, and the pages of the grid."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import clipattr
from clipattr.errors import ClipattrError, DataError, StudyError
from clipattr.studies.browsing import ANSWERS, Browser, surprise
from clipattr.studies.collected import Collected
from clipattr.studies.selections import Selections
from clipattr_widgets.browse import BrowsePanel
from clipattr_widgets.browse_state import PAGE, BrowseState
from clipattr_widgets.previews import ACROSS, CHUNK, TILE

PROMPT = "red disc"


@pytest.fixture(scope="module")
def browser(study):
    return Browser(Collected(study))


def score(study, row, words):
    """Cosines of one picture with words, from the picture itself."""
    import torch

    with torch.no_grad():
        image = study.model.encode_image(study.model.prepare(study.images[row].load())[None])
        return (image @ study.model.encode_text(words).T)[0].double().numpy()


def test_pictures_by_score_are_those_that_the_model_gives_when_asked_one_by_one(study, browser):
    rows, values = browser.pictures("score", prompt=PROMPT)
    slow = [score(study, row, [PROMPT])[0] for row in rows[::8]]
    np.testing.assert_allclose(values[::8], slow, atol=5e-4)  # activations are stored in half precision
    assert (np.diff(values) <= 0).all() and sorted(rows.tolist()) == list(range(len(study.images)))


def test_pictures_by_latent_have_the_activation_of_their_codes(study, browser):
    codes = study.codes.to_dense().numpy()
    latent = int((codes > 0).sum(0).argmax())
    rows, values = browser.pictures("latent", latent=latent)
    np.testing.assert_allclose(values, codes[rows, latent], atol=1e-6)
    assert values[0] == pytest.approx(codes[:, latent].max())


def test_the_error_is_what_the_dictionary_leaves_of_each_pictures_variance(study, browser):
    acts = np.asarray(study.activations, np.float64)
    recon = study.dictionary.decode(study.codes).detach().double().numpy()
    slow = [np.sum((a - r) ** 2) / np.sum((a - acts.mean(0)) ** 2) for a, r in zip(acts, recon, strict=True)]
    np.testing.assert_allclose(browser.errors, slow, rtol=1e-6)


def test_a_surprise_ranks_higher_by_the_model_than_by_the_evaluator(study, browser):
    collected = browser.collected
    model, evaluator = collected.scores(clipattr.Similarity(PROMPT)), collected.evaluator_scores(PROMPT)
    rows, values = browser.pictures("surprise", prompt=PROMPT)

    def rank(all_values, row):
        others = np.delete(all_values, row)
        return np.mean((others < all_values[row]) + 0.5 * (others == all_values[row]))

    slow = [rank(model, row) - rank(evaluator, row) for row in rows]
    np.testing.assert_allclose(values, slow, atol=1e-9)


def test_answers_and_columns_filter_and_an_empty_filter_passes_all(study, browser):
    words = browser.collected.label_words
    labels = study.images.columns["label"]
    rows, _ = browser.pictures(answer=ANSWERS[1], label="red_disc")
    slow = [
        row for row, label in enumerate(labels)
        if label == "red_disc" and words[score(study, row, words).argmax()] != "red disc"
    ]  # fmt: skip
    assert rows.tolist() == slow
    both = [browser.pictures(answer=one, label="red_disc")[0].size for one in ANSWERS]
    assert sum(both) == labels.count("red_disc") and browser.values_of("label") == sorted(set(labels))
    assert len(browser.pictures(label="", group="", search="")[0]) == len(study.images)
    found = browser.pictures(search="GREEN sq")[0]
    assert {labels[row] for row in found} == {"green_square"}


def test_latents_are_ordered_by_their_table_and_unknown_numbers_come_last(study, browser):
    frame = study.latents
    rows, values = browser.latents("clarity")
    known = values[np.isfinite(values)]
    assert (np.diff(known) <= 0).all() and not np.isfinite(values[len(known) :]).any()
    assert rows[0] == frame["clarity"].argmax()
    silent = browser.latents("number", named="silent")[0]
    assert silent.tolist() == np.flatnonzero(frame["frequency"] == 0).tolist()
    assert browser.latents("number", search="7")[0].tolist().count(7) == 1


def test_a_latents_reliance_is_its_mean_over_the_prompts_pictures(study, browser):
    found = browser.collected.rests_on(PROMPT, clipattr.Similarity(PROMPT))
    rows, values = browser.latents("reliance", prompt=PROMPT)
    slow = np.asarray(found.values.sum(axis=0)).ravel() / len(found.rows)
    np.testing.assert_allclose(values, slow[rows])


def test_what_fits_the_prompt_well_is_no_surprise():
    values = surprise(np.array([0.2, 0.2, 0.1]), np.array([0.3, 0.0, np.nan]))
    assert values[0] == pytest.approx(0) and values[1] == 0.2 and np.isnan(values[2])


@pytest.mark.parametrize(
    "given",
    [
        {"by": "beauty"},
        {"by": "score"},
        {"by": "latent", "latent": 10**6},
        {"colour": "red"},
        {"answer": "maybe"},
    ],
)
def test_questions_that_make_no_sense_are_refused(browser, given):
    with pytest.raises(DataError):
        browser.pictures(**given)


def test_thumbnails_are_the_bytes_of_the_study_and_no_huge_or_broken_one_is_handed_out(fresh_study):
    from PIL import Image

    browser = Browser(Collected(fresh_study))
    ends = np.load(fresh_study.path / "thumbnails.npy")
    whole = (fresh_study.path / "thumbnails.bin").read_bytes()
    assert browser.thumbnail(3) == whole[ends[3] : ends[4]]
    Image.new("RGB", (4000, 8)).save(fresh_study.path / "wide.jpg")
    wide = (fresh_study.path / "wide.jpg").read_bytes()
    (fresh_study.path / "thumbnails.bin").write_bytes(wide + b"<script>" + whole[len(wide) + 8 :])
    np.save(fresh_study.path / "thumbnails.npy", np.r_[0, len(wide), len(wide) + 8, ends[3:]])
    browser = Browser(Collected(fresh_study))
    assert browser.thumbnail(0) == browser.thumbnail(1) == b""


def test_selections_are_kept_with_the_study_and_ended_by_none(fresh_study):
    Selections(fresh_study).set("odd  ones", ["b", "a"])
    Selections(fresh_study).set("others", ["c"])
    assert Selections(fresh_study).names == ["odd ones", "others"]
    assert Selections(fresh_study).of("odd ones") == ["b", "a"] and Selections(fresh_study).of("none") == []
    Selections(fresh_study).set("others", [])
    assert Selections(fresh_study).names == ["odd ones"]
    with pytest.raises(StudyError, match="1 to 80"):
        Selections(fresh_study).set(" ", ["a"])
    Selections(fresh_study).path.write_text(json.dumps({"schema": 9}))
    with pytest.raises(StudyError, match="schema 9"):
        Selections(fresh_study)


def test_the_state_marks_keeps_and_goes_back_to_a_selection(fresh_study):
    state = BrowseState(fresh_study, order="score", prompt=PROMPT, label="red_disc")
    count = len(state.rows)
    assert count == 20
    state.mark(0)
    state.mark(2, to=1)
    assert state.marked == frozenset(state.rows[:3].tolist()) and state.marked_places().tolist() == [0, 1, 2]
    state.keep("mine")
    state.label = ""
    assert len(state.rows) == 60
    state.selection = "mine"
    assert sorted(state.rows.tolist()) == sorted(state.marked)
    state.forget()
    assert state.selections == [] and len(state.rows) == 60
    state.mark_all(False)
    assert not state.marked


def test_an_order_without_its_prompt_says_so_and_the_next_one_works(study):
    state = BrowseState(study)
    state.order = "score"
    assert "Write a prompt" in state.error and not len(state.rows)
    state.prompt = PROMPT
    assert state.error == "" and len(state.rows) == 60


def test_pages_hold_the_cells_of_the_order_and_old_ones_are_not_sent(study):
    state = BrowseState(study, order="score", prompt=PROMPT)
    sent = []
    state.ask_pages([1, 0, 7], state.gen, lambda page, gen, items: sent.append((page, gen, items)))
    assert [(page, len(items)) for page, _, items in sent] == [(1, 60 - PAGE), (0, PAGE)]
    first = sent[1][2][0]
    assert (
        first.pictures[0] == state.browser.thumbnail(int(state.rows[0]))
        and f"picture {state.rows[0]} " in first.alt
    )
    assert first.number == state.number(state.values[0])
    sent.clear()
    state.ask_pages([0], state.gen - 1, lambda *answer: sent.append(answer))
    assert sent == []


def test_the_code_of_a_view_gives_its_rows(study):
    state = BrowseState(study, order="score", prompt=PROMPT, label="red_disc", falling=False)
    space: dict = {}
    exec(state.code().replace("ca.open_study(", "(lambda _: study)("), {"study": study}, space)
    assert space["rows"].tolist() == state.rows.tolist()
    state.of = "latents"
    exec(state.code().replace("ca.open_study(", "(lambda _: study)("), {"study": study}, space)
    assert space["rows"].tolist() == state.rows.tolist()


def test_the_panel_opens_pictures_with_their_prompt_and_latents_by_number(study):
    panel = BrowsePanel(study, order="score", prompt=PROMPT)
    seen = []
    panel.on_picture(lambda *where: seen.append(where))
    panel.grid._heard(panel.grid, {"kind": "pick", "i": 2, "gen": panel.state.gen}, [])
    assert seen == [(int(panel.state.rows[2]), -1, PROMPT)]
    panel.of.value = "latents"
    panel.grid._heard(panel.grid, {"kind": "pick", "i": 1, "gen": panel.state.gen}, [])
    assert panel.state.opened_latent == panel.state.rows[1] and panel.state.opened == 1
    assert "latents" in panel.static().bundle()["text/html"]
    panel.close()


def test_a_read_only_page_keeps_no_selection(study):
    from clipattr_widgets.desk import Desk

    state = BrowseState(Desk(study, read_only=True))
    state.mark(0)
    state.keep("mine")
    assert "read-only" in state.error
    with pytest.raises(ClipattrError):
        Selections(study).set("", [])


def test_a_latents_page_shows_what_is_active_beside_it_and_leads_to_its_neighbours(study):
    from clipattr_widgets import LatentPanel

    latent = int(np.bincount(study.codes.to_csr().indices).argmax())
    panel = LatentPanel(study, latent=latent, order="bands")
    codes = study.codes.to_dense().numpy() > 0
    for row, (other, share, more) in zip(panel.beside.rows, panel.state.beside, strict=True):
        mine = codes[:, latent]
        assert share == pytest.approx(codes[mine, other].mean()) and row["id"] == other
        assert more == pytest.approx(share - codes[~mine, other].mean())
    quarters = [caption[:5] for caption in panel.state.shelf.captions]
    assert quarters == sorted(quarters) and set(quarters) == {"1st ¼", "2nd ¼", "3rd ¼", "4th ¼"}
    panel.forth.click()
    assert panel.state.latent == (latent + 1) % 32
    neighbour = panel.beside.rows[0]["id"]
    panel.beside.selected = neighbour
    assert panel.state.latent == neighbour
    panel.close()


def test_only_the_highest_score_is_called_higher_than_all(study):
    from clipattr_widgets.desk import Desk

    desk = Desk(study)
    target = desk.target(PROMPT)
    rows, _ = Browser(desk.collected).pictures("score", prompt=PROMPT)
    said = [desk.standing(desk.measure(int(row), target), target, int(row)) for row in rows[[0, 1]]]
    assert (
        said[0].startswith("higher than all of the other 59") and "higher than 98% of the other 59" in said[1]
    )


def test_sheets_of_previews_hold_every_picture_small_in_the_order_of_the_grid(study):
    state = BrowseState(study, order="score", prompt=PROMPT)
    sheets = []
    state.ask_previews([0, 1], state.gen, lambda *sent: sheets.append(sent))
    state.ask_previews([0], state.gen - 1, lambda *sent: sheets.append(sent))  # of an order that is gone
    [(chunk, gen, data)] = sheets  # sixty pictures are one chunk
    assert (chunk, gen) == (0, state.gen) and len(study.images) <= CHUNK
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    assert sheet.shape == (-(-len(state.rows) // ACROSS) * TILE, ACROSS * TILE, 3)
    for place in (0, 17, 59):
        thumb = (
            study.thumbnail(int(state.rows[place])).convert("RGB").resize((TILE, TILE), Image.Resampling.BOX)
        )
        top, left = (place // ACROSS) * TILE, (place % ACROSS) * TILE
        tile = sheet[top : top + TILE, left : left + TILE]
        assert (
            np.abs(tile - np.asarray(thumb, float)).mean() < 8
        )  # levels of 255; JPEG and its reduced decoding
    state.of = "latents"
    sheets.clear()
    state.ask_previews([0], state.gen, lambda *sent: sheets.append(sent))
    sheet = np.asarray(Image.open(io.BytesIO(sheets[0][2])).convert("RGB"), float)
    latent = int(state.rows[3])
    places = study.examples.indices[latent][:4]
    if len(places) == 4 and min(places) >= 0:
        last = study.thumbnail(int(places[3])).convert("RGB").resize((4, 4), Image.Resampling.BOX)
        assert np.abs(sheet[4:8, 3 * TILE + 4 : 4 * TILE] - np.asarray(last, float)).mean() < 12
    state.close()


def test_rendered_pictures_are_drawn_once_and_a_sheet_that_nobody_waits_for_is_given_up(study, monkeypatch):
    state = BrowseState(study)
    browser, drawn = state.browser, []
    plain = type(study).thumbnail
    monkeypatch.setattr(browser, "_ends", None)  # as where the folder holds no thumbnails
    monkeypatch.setattr(type(study), "thumbnail", lambda one, row: (drawn.append(row), plain(one, row))[1])
    assert not browser.has_thumbnails  # these pictures lie in files, which take long to decode
    sheets = []
    state.ask_previews([0], state.gen, lambda *sent: sheets.append(sent))
    first = browser.thumbnail(7)
    state.items(range(10))
    assert len(sheets) == 1 and sorted(drawn) == list(range(len(study.images)))
    assert browser.thumbnail(7) is first

    state.previews.tile.cache_clear()
    browser._made.cache_clear()
    drawn.clear()

    def leave(one, row):
        drawn.append(row)
        if len(drawn) == 5:
            state._near = set()  # another part of the grid is asked for
        return plain(one, row)

    monkeypatch.setattr(type(study), "thumbnail", leave)
    state._near = {(state.gen, 0)}
    assert state._sheet(0, state.gen) == b"" and len(drawn) == 5
    state.close()


def test_previews_of_rendered_pictures_are_fetched_ahead():
    browser = Browser(Collected(clipattr.open_study("picture-world")))
    assert browser.has_thumbnails and browser._ends is None
