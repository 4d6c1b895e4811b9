"""Comparing studies: latents against dense correlation and the Hungarian method, findings by prompt and cause."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

import clipattr as ca
from clipattr.discovery.compare import _causes, compare, correlations, pairs
from clipattr.discovery.findings import Finding, Findings
from clipattr.statistics import Interval


def sparse(seed, rows=300, columns=20, share=0.15):
    generator = np.random.default_rng(seed)
    return np.where(generator.random((rows, columns)) < share, generator.random((rows, columns)) + 0.1, 0.0)


def made(prompt, label, latents, effect=0.1):
    span = Interval(effect, effect - 0.01, effect + 0.01)
    return Finding(prompt, tuple(latents), label, "context", 0.9, span, span, 0.5, 0.0, 0.5, 0.9)


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


def test_correlations_are_pearsons_over_all_pictures():
    one, other = sparse(0), sparse(1)
    other[:, 3] = np.where(one[:, 5] > 0, one[:, 5] * 2, 0)
    left, right, value = correlations(csr_array(one), csr_array(other), candidates=20)
    slow = np.corrcoef(one.T, other.T)[:20, 20:]
    np.testing.assert_allclose(value, slow[left, right], atol=1e-10)
    assert value[(left == 5) & (right == 3)] == pytest.approx(1.0)


def test_pairs_are_the_hungarian_methods():
    generator = np.random.default_rng(3)
    one = sparse(2, columns=12)
    shuffled = generator.permutation(12)
    other = one[:, shuffled] * generator.uniform(0.5, 2, 12) + sparse(4, columns=12, share=0.03)
    left, right, value = pairs(csr_array(one), csr_array(other), least=0.3)
    slow = np.corrcoef(one.T, other.T)[:12, 12:]
    rows, columns = linear_sum_assignment(-np.where(slow >= 0.3, slow - 0.3, 0))
    best = {(r, c) for r, c in zip(rows, columns, strict=True) if slow[r, c] >= 0.3}
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == best
    assert [shuffled[column] for column in right] == left.tolist()
    np.testing.assert_allclose(value, slow[left, right], atol=1e-9)


def test_latents_that_never_fire_and_unrelated_ones_stay_alone():
    one, other = sparse(5, columns=4), sparse(6, columns=4)
    one[:, 0] = 0
    other[:, 1] = one[:, 2]
    left, right, _ = pairs(csr_array(one), csr_array(other), least=0.5)
    assert (left.tolist(), right.tolist()) == ([2], [1])
    assert not len(pairs(csr_array(one * 0), csr_array(other))[0])


def test_findings_are_one_if_word_or_pictures_agree_and_the_prompt_does():
    codes = [sparse(7, columns=4), sparse(8, columns=4)]
    codes[1][:, 2] = codes[0][:, 1]  # the same pictures under another word
    audits = [
        Findings(
            [made("camel", "desert", [0], 0.3), made("kite", "bird", [1], 0.2), made("bus", "street", [3])]
        ),
        Findings([made("camel", "Desert", [0]), made("kite", "eagle", [2]), made("tram", "street", [3])]),
    ]
    rows = _causes(("a", "b"), audits, [csr_array(part) for part in codes])
    assert [(prompt, cause, set(found)) for prompt, cause, found in rows] == [
        ("camel", "desert", {"a", "b"}),
        ("kite", "bird", {"a", "b"}),
        ("bus", "street", {"a"}),
        ("tram", "street", {"b"}),
    ]


def test_a_study_beside_itself_shares_everything(study):
    found = Findings(
        [made("camel", "desert", [1, 2]), made("kite", "eagle", [3])],
        study,
        {"dictionary": study.dictionary.hash},
    )
    both = compare({"one": study, "two": study}, findings=[found, found])
    live = int((study.examples.counts > 0).sum())
    assert (both.matches["latent"] == both.matches["other"]).mean() > 0.99
    assert len(both.matches) > 0.9 * live and both.matches["correlation"].min() > 0.99
    assert len(both.shared()) == 2 and not both.only("one")
    assert both.frame["models"].tolist() == [2, 2] and {"one", "two low"} <= set(both.frame.columns)
    axes = both.plot().axes[0]
    assert {text.get_text() for text in axes.get_yticklabels()} == {"camel ← desert", "kite ← eagle"}


def test_pictures_of_another_collection_are_encoded_again(study):
    rows = np.arange(30)
    other = SimpleNamespace(
        path=study.path, model=study.model, site=study.site, dictionary=study.dictionary, latents=study.latents,
        images=study.images.select(rows),
    )  # fmt: skip
    nothing = [Findings([], study, {}), Findings([], study, {})]
    small = SimpleNamespace(**{**vars(other), "codes": study.codes.rows(np.arange(30).tolist())})
    beside = SimpleNamespace(**{**vars(other), "images": study.images.select(np.arange(30, 60))})
    beside.activations, beside.codes = study.activations[30:60], study.codes.rows(list(range(30, 60)))
    result = compare([small, beside], findings=nothing)
    assert result.pictures == 30 and result.names[1].endswith("(2)")
    # The same model encodes the same pictures, up to the half precision of what is stored; on so few pictures several
    # latents fire alike, so that which of them pair up is open.
    assert len(result.matches) > 100 and (result.matches["correlation"] > 0.99).mean() > 0.9


def test_what_cannot_be_compared_is_refused(study):
    with pytest.raises(ca.DataError, match="two studies"):
        compare([study])
    with pytest.raises(ca.DataError, match="2 studies need as many audits; got 1"):
        compare([study, study], findings=[Findings([])])
    with pytest.raises(ca.StudyError, match="another dictionary"):
        wrong = Findings([], study, {"dictionary": "another dictionary"})
        compare([study, study], findings=[wrong, wrong])
    with pytest.raises(ca.DataError, match="nothing to plot"):
        compare([study, study], findings=[Findings([]), Findings([])]).plot()
