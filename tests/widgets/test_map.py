"""The map of all latents against slow counts on a real tiny study, without a browser."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr
from clipattr_widgets import ExplorerPanel, LatentPanel, MapPanel, MapState, PromptPanel, Scatter
from clipattr_widgets.map_places import spread
from clipattr_widgets.map_state import CHOSEN, MARKED, OTHERS


@pytest.fixture
def state(study):
    made = MapState(study, prompt="red disc")
    yield made
    made.close()


def test_reliance_is_the_mean_exact_effect_over_the_prompts_pictures_and_fit_the_evaluators(state, study):
    rows = [i for i, label in enumerate(study.images.columns["label"]) if label == "red_disc"]
    expected = np.zeros(32)
    for row in rows:
        table = clipattr.attribute(study, study.images[row], "red disc").top(100)
        for latent, value in zip(table["latent"], table["attribution"], strict=True):
            expected[latent] += value / len(rows)
    there = np.isfinite(state.places.reliance)
    np.testing.assert_allclose(state.places.reliance[there], expected[there], atol=1e-5)
    assert not expected[~there].any()
    match = clipattr.find(study, "red disc", n=32).set_index("latent")["match"]
    for latent, value in match.items():
        assert state.places.fit[latent] == pytest.approx(value, abs=1e-4)  # the study keeps float16
    np.testing.assert_allclose(state.places.xy[:, 1], state.places.reliance * 100)


def test_the_other_views_need_no_prompt(state, study):
    state.view = "quality"
    frame = study.latents
    np.testing.assert_allclose(state.places.xy[:, 0], frame["clarity"])
    active = (frame["frequency"] > 0).to_numpy()
    np.testing.assert_allclose(10 ** state.places.xy[active, 1], 100 * frame["frequency"][active])
    state.view = "meaning"
    live = (study.labels.mean_embedding.norm(dim=1) > 0).numpy()
    assert np.isfinite(state.places.xy[live]).all() and state.places.bare


def test_a_word_lights_up_latents_by_name_and_else_by_meaning(state, study):
    label = study.latents["label"].dropna().iloc[0]
    state.search = label
    named = [j for j, text in enumerate(study.latents["label"]) if isinstance(text, str) and label in text]
    assert set(named) <= set(state.lit)
    assert (state.groups[list(state.lit)] == 1).all() and state.groups.sum() == len(state.lit)
    state.search = "a zebra crossing"
    assert "by the evaluator" in state.note and len(state.lit) == 20
    state.search = ""
    assert state.lit == () and not state.groups.any()


def test_a_picture_lights_up_the_latents_that_are_active_in_it(state, study):
    state.light_picture("7")
    row = study.codes.rows([7]).to_csr()
    assert set(state.lit) == {int(j) for j, v in zip(row.indices, row.values, strict=True) if v != 0}
    buffer = io.BytesIO()
    study.images[7].load().save(buffer, "PNG")
    by_number = set(state.lit)
    state.light_upload(buffer.getvalue(), "mine.png")
    assert set(state.lit) == by_number
    state.light_upload(b"nonsense", "<b>.png")
    assert "cannot be used" in state.error
    state.light_picture("no such picture")
    assert "No picture has" in state.error


def test_what_a_box_holds_is_listed_and_sorted(state, study):
    state.chosen = (3, 9, 4, 9, 9999, -2)
    assert state.chosen == (3, 4, 9) and {row["id"] for row in state.rows} == {3, 4, 9}
    state.sort("clarity")
    order = [row["id"] for row in state.rows]
    clarity = study.latents["clarity"]
    assert order == sorted(order, key=lambda j: -np.nan_to_num(clarity[j], nan=-9))
    state.sort("clarity")
    assert state.falling is False
    state.chosen = ()
    assert len(state.rows) > 3


def test_findings_of_the_prompt_are_marked_and_listed_and_those_of_others_are_not_taken_for_them(
    study, finding
):
    found = [finding(latents=(5, 6)), finding(prompt="bat", latents=(6, 7), kind="companion")]
    made = MapState(study, findings=found, prompt="kite")
    assert {5, 6} <= {row["id"] for row in made.rows}
    assert made.groups[[5, 6, 7]].tolist() == [MARKED, MARKED, OTHERS]
    said = dict(zip(made.frame()["latent"], made.frame()["finding"], strict=True))
    assert said[5] == "background" and said[6] == "background; bat: companion"
    assert [j for j, _ in made.labels()][:2] == [5, 6] and len(made.labels()) == 15
    made.prompt = "bat"
    assert made.groups[[5, 6, 7]].tolist() == [OTHERS, MARKED, MARKED]
    made.view = "quality"  # of no prompt: every finding counts, with its prompt's name
    assert made.groups[[5, 6, 7]].tolist() == [MARKED] * 3 and made.found_words(5) == "kite: background"
    made.chosen = (5, 9)
    assert made.groups[[5, 9, 10]].tolist() == [MARKED | CHOSEN, CHOSEN, 0]
    made.chosen = ()
    made.show_findings(())
    assert not made.groups.any()


def test_clicks_boxes_and_the_table_choose_latents(study):
    panel = MapPanel(study, prompt="red disc")
    panel.scatter.set_state({"selected": 8})
    assert panel.state.latent == 8 and panel.scatter.answered == 8 and "latent 8" in panel.card.value
    chosen = np.array([2, 3], "<i4").tobytes()
    panel.scatter.set_state({"chosen": memoryview(chosen), "chosen_gen": 1})
    assert panel.state.chosen == (2, 3) and "2 latents chosen" in panel.count.value
    panel.list.set_state({"selected": 3})
    assert panel.state.latent == 3 and panel.scatter.selected == 3
    panel.opener.click()
    assert isinstance(panel.latent_panel, LatentPanel) and panel.latent_panel.state.latent == 3
    panel.goto.set_state({"value": "11"})
    assert panel.state.latent == 11
    panel.close()


def test_points_are_sent_once_and_names_without_repeats(study, monkeypatch):
    scatter, sent = Scatter(), []
    monkeypatch.setattr(Scatter, "_send", lambda self, message, buffers=None: sent.append((message, buffers)))
    xy, names = np.random.default_rng(0).random((30_000, 2)), ["one word", "another"] * 15_000
    scatter.show(xy, groups=np.zeros(30_000), names=names, meta={})
    assert len(sent) == 1 and scatter.texts == ["one word", "another"]
    np.testing.assert_array_equal(np.frombuffer(scatter.xy, "<f4").reshape(-1, 2), xy.astype("f4"))
    assert sum(len(buffer) for buffer in sent[0][1]) < 400_000
    scatter.show(groups=np.ones(30_000), meta={})
    assert len(sent) == 2 and sum(len(buffer) for buffer in sent[1][1]) == 30_000


def test_the_map_as_a_figure_holds_every_latent_and_runs_no_markup(fresh_study, finding):
    fresh_study.rename(3, "<a href='javascript:alert(1)'>x</a>")
    panel = MapPanel(fresh_study, view="quality", findings=[finding(latents=(5, 6))])
    figure = panel.figure()
    assert sum(len(trace.x) for trace in figure.data) == np.isfinite(panel.state.places.xy).all(1).sum()
    assert "<a" not in " ".join(text for trace in figure.data for text in trace.text)
    figure.to_json()
    panel.close()


def test_the_code_of_the_map_runs(state, study, monkeypatch):
    monkeypatch.setattr(clipattr, "open_study", lambda path: study)
    for view in ("surprise", "quality", "meaning"):
        state.view, scope = view, {}
        exec(state.code().replace("'red disc']", "'red_disc']"), scope)
        if view == "surprise":
            latent = int(scope["reliance"].abs().idxmax())
            assert scope["reliance"][latent] == pytest.approx(state.places.reliance[latent], abs=1e-5)


def test_a_dictionary_of_one_latent_has_a_map(tiny_model, picture_folder, tmp_path):
    study = clipattr.build_study(
        tiny_model, picture_folder, path=tmp_path / "one", vocabulary=["red disc", "kite"], evaluator=tiny_model,
        n_latents=1, k=1, examples=5, progress=False, training={"steps": 5},
    )  # fmt: skip
    for view in ("surprise", "quality", "meaning"):
        panel = MapPanel(study, view=view)
        assert panel.state.error == "" and panel.static().png()
        panel.close()


def without_weights(study):
    manifest = json.loads((study.path / "study.json").read_text())
    for role in ("model", "evaluator"):
        manifest[role]["reference"] = "local-dir:/nowhere/at/all"
    (study.path / "study.json").write_text(json.dumps(manifest))
    return clipattr.open_study(study.path, images=study.images)


def test_without_weights_every_panel_can_be_browsed_and_says_what_it_cannot(fresh_study):
    bare = without_weights(fresh_study)
    panel = MapPanel(bare, prompt="red disc")
    assert "Browsing only" in panel.notice.value
    panel.view.value = "quality"
    assert panel.state.error == "" and panel.state.rows
    panel.state.latent = 4
    assert panel.state.examples.thumbnails
    panel.search.value = str(bare.latents["label"].dropna().iloc[0])
    assert panel.state.lit
    panel.close()
    latent = LatentPanel(bare, latent=4, heat=True, order="bands")
    assert latent.state.card.latent == 4 and latent.gallery.meta["n"] and latent.state.error == ""
    latent.state.order = "use"
    assert latent.state.error and latent.static().png()
    latent.close()
    for kind in (PromptPanel, ExplorerPanel):
        panel = kind(bare, prompt="kite")
        assert "Browsing only" in panel.notice.value and panel.static().png()
        panel.close()


def test_the_layout_of_a_tiny_study_is_the_same_every_time(study):
    from clipattr.meaning.layout import layout

    means = study.labels.mean_embedding
    torch.testing.assert_close(
        torch.from_numpy(layout(means)), torch.from_numpy(layout(means)), equal_nan=True
    )
    panel = MapPanel(study, view="meaning")
    assert Image.open(io.BytesIO(panel.static().png())).width > 300
    panel.close()


def test_a_point_under_the_mouse_gets_its_strongest_pictures(study, monkeypatch):
    panel, sent = MapPanel(study), []
    monkeypatch.setattr(
        type(panel.scatter), "send", lambda self, message, buffers=None: sent.append((message, buffers))
    )
    panel.scatter._handle_custom_msg({"kind": "hover", "i": 3}, [])
    panel.scatter._handle_custom_msg({"kind": "hover", "i": 10**6}, [])
    [(message, [jpeg])] = sent
    many = len(panel.state.table.examples(3, 4)[0])
    assert message == {"kind": "pictures", "i": 3} and many
    assert Image.open(io.BytesIO(jpeg)).size == (4 * 56, 56)
    panel.close()


def test_regions_are_named_by_their_clearest_latent_and_views_without_a_prompt_have_no_columns_of_one(study):
    rng = np.random.default_rng(3)
    xy, worth = rng.normal(size=(200, 2)), rng.random(200)
    xy[::17], worth[5] = np.nan, np.nan
    there = [i for i in range(200) if np.isfinite(xy[i]).all() and np.isfinite(worth[i])]
    low, high = xy[there].min(0), xy[there].max(0)
    regions = {}
    for i in there:
        place = tuple(
            min(int((xy[i, k] - low[k]) / (high[k] - low[k]) * n), n - 1) for k, n in ((0, 4), (1, 3))
        )
        regions.setdefault(place, []).append(i)
    best = {max(members, key=lambda i: worth[i]): len(members) for members in regions.values()}
    found = spread(xy, worth, 4, 3)
    assert set(found) == set(best)
    assert [best[i] for i in found] == sorted(best.values(), reverse=True)
    assert spread(np.full((3, 2), np.nan), np.ones(3)) == []
    panel = MapPanel(study, prompt="red disc")
    assert [c["key"] for c in panel.list.columns][:3] == ["latent", "reliance", "fit"]
    panel.view.value = "meaning"
    panel.state.settle()
    keys = [c["key"] for c in panel.list.columns]
    assert "reliance" not in keys and "fit" not in keys
    assert {len(row["cells"]) for row in panel.list.rows} == {len(keys)}
    assert len(panel.scatter.meta["labels"]) > 15
    panel.close()


def test_the_meaning_layout_tells_its_rounds_and_can_be_ended(study, monkeypatch):
    import threading

    from clipattr_widgets.desk import Desk

    begun, go, ended = threading.Event(), threading.Event(), []

    def layout(vectors, on_round):
        on_round(1, 4)
        begun.set()
        assert go.wait(20)
        try:
            on_round(2, 4)
        except Exception as error:
            ended.append(type(error).__name__)
            raise
        return np.zeros((len(vectors), 2), np.float32)

    monkeypatch.setattr("clipattr.meaning.layout.layout", layout)
    panel = MapPanel(state=MapState(Desk(study), view="quality", threaded=True))
    state = panel.state
    try:
        state.settle(20)
        state.view = "meaning"
        assert begun.wait(20)
        state.worker._deliver()
        assert state.progress[:2] == (1, 4) and "layout</bdi>: 1 of 4 rounds" in panel.status.value
        assert panel.cancel.layout.display == ""
        panel.cancel.click()
        go.set()
        state.settle(20)
        assert ended == ["Superseded"] and state.view != "meaning" and state.places is not None
        assert state.table.layout is None and panel.cancel.layout.display == "none"
    finally:
        panel.close()
