"""The explorer's table of pairs: it sums to the score, follows what is looked at, and refuses in words."""

import pytest

import clipattr
from clipattr_widgets import ExplorerPanel
from clipattr_widgets.pair_table import N_PAIRS


@pytest.fixture(scope="module")
def text_sae(study):
    return clipattr.train_text_sae(study, n_latents=16, k=3, steps=20, progress=False)


def points(rows):
    return [float(row["cells"][2].replace("−", "-")) for row in rows]


def test_pairs_sum_to_the_score_and_follow_picture_and_prompt(study, text_sae):
    panel = ExplorerPanel(study, picture=4, prompt="kite", text_dictionary=text_sae, tabs=True)
    assert panel.pairs in panel.tabs.box.children
    for change in ({}, {"picture": 9}, {"prompt": "bat", "against": "kite"}):
        for name, value in change.items():
            setattr(panel.state, name, value)
        rows = panel.pairs.table.rows
        *parts, score = points(rows)
        found = clipattr.pairs(
            study, study.images[panel.state.picture], panel.state.prompt, text_dictionary=text_sae
        )
        assert score == pytest.approx(100 * found.score, abs=0.006) == pytest.approx(sum(parts), abs=0.1)
        top = found.values.flatten().abs().max()
        assert abs(parts[0]) == pytest.approx(100 * float(top), abs=0.006) and len(parts) == N_PAIRS + 1
    assert "left out" in panel.pairs.note.value and "<h3" in panel.pairs.note.value
    panel.state.look_at(study.images[2].load(), "mine.png")
    assert panel.state.picture == -1 and len(panel.pairs.table.rows) == N_PAIRS + 2
    panel.close()
    assert ExplorerPanel(study, prompt="kite").pairs is None


def test_a_dictionary_that_does_not_fit_is_refused_in_words(study):
    panel = ExplorerPanel(study, picture=4, prompt="kite", text_dictionary=study.dictionary)
    assert panel.pairs.table.rows == [] and "text" in panel.pairs.note.value
    panel.close()
