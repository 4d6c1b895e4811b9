"""Scores against their slow formulas, families and search on planted groups."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import AgglomerativeClustering

from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError
from clipattr.meaning.examples import Examples
from clipattr.meaning.families import families, tree
from clipattr.meaning.labels import Labels
from clipattr.meaning.scores import (
    Totals,
    clarity,
    example_clarity,
    mean_top,
    meanings,
    mixture,
    nearest_latents,
    triage,
)
from clipattr.meaning.search import find


def examples_of(rows, m=None):
    m = m or max(len(row) for row in rows)
    examples = Examples(len(rows), m)
    for latent, row in enumerate(rows):
        examples.indices[latent, : len(row)] = torch.tensor(row, dtype=torch.int64)
        examples.values[latent, : len(row)] = torch.linspace(2, 1, len(row)) if row else torch.empty(0)
    return examples


def pairwise(vectors):
    unit = F.normalize(vectors.double(), dim=1)
    cosines = unit @ unit.T
    return float((cosines.sum() - len(unit)) / (len(unit) * (len(unit) - 1)))


def test_clarity_is_the_mean_pairwise_cosine():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(20, 16), dim=1)
    assert float(clarity(vectors.sum(0), torch.tensor(20))) == pytest.approx(pairwise(vectors), abs=1e-6)
    assert clarity(vectors[0], torch.tensor(1)).isnan()


def test_clarity_and_its_error_equal_leaving_one_out():
    torch.manual_seed(1)
    embeddings = F.normalize(torch.randn(40, 8) + 1, dim=1)
    examples = examples_of([[0, 5, 9, 11, 20], [3], [7, 8], []])
    value, error = example_clarity(examples, embeddings)
    assert float(value[0]) == pytest.approx(pairwise(embeddings[examples.of(0)]), abs=1e-6)
    left = [pairwise(embeddings[[i for i in examples.of(0) if i != out]]) for out in examples.of(0)]
    wanted = np.sqrt(4 / 5 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert float(error[0]) == pytest.approx(wanted, rel=1e-5)
    assert value[1].isnan() and value[3].isnan() and error[2].isnan() and not value[2].isnan()


def test_monosemanticity_is_the_weighted_mean_over_all_pairs():
    torch.manual_seed(2)
    dense = torch.rand(30, 4) * (torch.rand(30, 4) < 0.4)
    dense[:, 3] = 0
    embeddings = F.normalize(torch.randn(30, 6), dim=1)
    totals = Totals(4, 6)
    for start in (0, 11, 25):
        rows = slice(start, {0: 11, 11: 25, 25: 30}[start])
        totals.update(SparseCodes.from_dense(dense[rows]), embeddings[rows])
    value = totals.monosemanticity()
    cosines = embeddings @ embeddings.T
    for latent in range(3):
        weights = dense[:, latent, None] * dense[None, :, latent]
        weights.fill_diagonal_(0)
        assert float(value[latent]) == pytest.approx(
            float((weights * cosines).sum() / weights.sum()), abs=1e-5
        )
    assert value[3].isnan()
    share, error = totals.frequency()
    torch.testing.assert_close(share, (dense > 0).float().mean(0))
    assert error[3] == 0


def test_triage_is_the_product_and_never_negative():
    got = triage(
        torch.tensor([2.0, 2.0, 2.0]), torch.tensor([0.5, -0.1, float("nan")]), torch.tensor([0.1, 0.1, 0.1])
    )
    torch.testing.assert_close(got, torch.tensor([0.1, 0.0, 0.0]))
    torch.testing.assert_close(mean_top(examples_of([[1, 2, 3], []])), torch.tensor([1.5, 0.0]))


def test_examples_of_two_concepts_are_two_meanings():
    torch.manual_seed(3)
    centres = F.normalize(torch.randn(3, 32), dim=1)
    embeddings = F.normalize(centres.repeat_interleave(20, 0) + 0.05 * torch.randn(60, 32), dim=1)
    examples = examples_of([list(range(20)), [0, 1, 2, 3, 4, 5, 6, 20, 21, 22, 23], [0, 20, 40], [5], []])
    count, group = meanings(examples, embeddings, threshold=0.5)
    assert count.tolist() == [1, 2, 1, 1, 0]
    assert group[1, :11].tolist() == [0] * 7 + [1] * 4
    assert (group[0, :20] == 0).all() and (group[4] == -1).all()


def test_mixture_is_nought_for_copies_and_one_for_two_equal_unrelated_groups():
    embeddings = torch.eye(4)[[0, 0, 0, 1, 1, 1, 2]]
    value = mixture(examples_of([[0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [6], []]), embeddings)
    torch.testing.assert_close(value[:3], torch.tensor([0.0, 1.0, 1 / 3]))
    assert value[3:].isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_clusters_equal_those_of_scikit_learn(seed):
    torch.manual_seed(seed)
    embeddings = F.normalize(torch.randn(12, 5), dim=1)
    count, group = meanings(examples_of([list(range(12))]), embeddings, threshold=0.2, least=1)
    slow = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=0.8).fit(
        embeddings
    )
    assert int(count[0]) == slow.n_clusters_
    assert len(set(zip(group[0].tolist(), slow.labels_.tolist(), strict=True))) == slow.n_clusters_


def test_nearest_latents_equal_the_full_matrix():
    torch.manual_seed(4)
    vectors = torch.randn(50, 8)
    among = torch.arange(50) % 5 != 0
    index, cosine = nearest_latents(vectors, 3, among=among)
    full = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
    full.fill_diagonal_(-2)
    full[:, ~among] = -2
    wanted = full.topk(3)
    assert torch.equal(index[among], wanted.indices[among])
    torch.testing.assert_close(cosine[among], wanted.values[among])
    assert (index[~among] == -1).all()


@pytest.fixture
def study(tiny_model):
    """Six latents: 0-2 share one meaning, 3-4 another, 5 is alone, 6 is silent."""
    torch.manual_seed(5)
    centres = F.normalize(torch.randn(3, 48), dim=1)
    means = F.normalize(centres[[0, 0, 0, 1, 1, 2, 2]] + 0.05 * torch.randn(7, 48), dim=1)
    means[6] = 0
    dense = torch.rand(40, 7) * (torch.rand(40, 7) < 0.5)
    dense[:, 6] = 0
    codes = SparseCodes.from_dense(dense)
    examples = Examples(7, 4)
    examples.update(codes)
    nothing = torch.full((7,), float("nan"))
    labels = Labels(
        torch.zeros(7, 1, dtype=torch.int64), torch.zeros(7, 1), means, auc=nothing, auc_error=nothing
    )
    names = ["dog", "hot dog", "cat", "fox", "owl", "kite", None]
    table = pd.DataFrame(
        {"latent": range(7), "name": names, "label": names, "clarity": 0.5, "frequency": 0.1}
    )
    return SimpleNamespace(
        labels=labels, names={5: "a red kite"}, codes=codes, examples=examples, latents=table, evaluator=tiny_model,
        dictionary=SimpleNamespace(decoder=F.normalize(torch.randn(7, 20), dim=1)),
        evaluator_embeddings=np.zeros((40, 48), dtype=np.float16),
    )  # fmt: skip


def test_latents_with_one_meaning_are_one_family_and_nobody_is_in_two(study):
    groups = families(study)
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 4], [5]]
    strength = study.examples.values.sum(1)
    assert [float(strength[j]) for j in groups[0]] == sorted(
        (float(strength[j]) for j in groups[0]), reverse=True
    )
    assert sorted(map(sorted, families(study, latents=[0, 1, 5]))) == [[0, 1], [5]]
    assert len(families(study, alike=1.0)) == 6


def test_the_tree_joins_families_first(study):
    assert tree(study).shape == (5, 4)
    assert {int(v) for v in tree(study)[0, :2]} <= {0, 1, 2} or {int(v) for v in tree(study)[0, :2]} == {3, 4}


def test_latents_are_found_by_label_by_likeness_by_text_and_by_picture(study):
    assert find(study, "dog", by="label")["label"].tolist() == ["dog", "hot dog"]
    assert find(study, "Red kite", by="label")["latent"].tolist() == [5]  # a name that was given
    assert set(find(study, 0, 2)["latent"]) == {1, 2}
    assert len(find(study, "a rusty bicycle", 3)) == 3
    picture = np.full((40, 40, 3), 200, dtype=np.uint8)
    table = find(study, picture, 10)
    wanted = F.cosine_similarity(
        study.labels.mean_embedding[:6],
        study.evaluator.encode_image(study.evaluator.prepare(picture)[None]),
        dim=1,
    )
    assert table["latent"].tolist() == wanted.argsort(descending=True).tolist()
    assert table["match"].is_monotonic_decreasing
    for wrong, reason in ((" ", "empty"), (6, "Latent 6"), (99, "Latent 99")):
        with pytest.raises(DataError, match=reason):
            find(study, wrong)
