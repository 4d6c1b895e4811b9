"""Probes take arrays, lists, Series, frames and checkpoints; missing labels are left out and counted."""

import numpy as np
import pandas as pd
import pytest
import torch

from clipattr.dictionaries import SparseCodes
from clipattr.discovery.probes.fitting import fit_probe, fit_sparse_probe
from clipattr.discovery.probes.probe import Probe, numbers_in
from clipattr.errors import DataError, TargetError

QUICK = {"strength": 1.0, "calibrate": False}
E = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
Y = np.arange(40) % 3


@pytest.mark.parametrize(
    "labels",
    [Y, Y.tolist(), Y.astype(float), torch.tensor(Y), pd.Series(Y), pd.Series(Y, dtype="category"),
     pd.DataFrame({"y": Y}), pd.array(Y, dtype="Int64"), [str(y) for y in Y], Y[:, None]],
    ids=lambda labels: type(labels).__name__,
)  # fmt: skip
@pytest.mark.parametrize(
    "of", [lambda e: e, lambda e: e.numpy(), lambda e: e.tolist(), lambda e: pd.DataFrame(e.numpy())]
)
def test_every_form_of_numbers_and_labels_gives_the_same_probe(labels, of):
    expected = fit_probe(E, [str(y) for y in Y], **QUICK)
    made = fit_probe(of(E), labels, **QUICK)
    assert made.names == ("0", "1", "2")
    torch.testing.assert_close(made.weights, expected.weights)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, ""])
def test_missing_labels_are_left_out_and_counted_and_false_ones_are_classes(missing):
    given = [missing if n % 4 == 0 else bool(n % 2) for n in range(40)]
    made = fit_probe(E, given, **QUICK)
    assert (
        made.names == ("False", "True") and made.about["without_label"] == 10 and made.about["pictures"] == 30
    )


def test_a_sparse_probe_takes_the_same_labels():
    codes = SparseCodes(torch.arange(40)[:, None] % 3, torch.ones(40, 1), 3)
    made = fit_sparse_probe(codes, pd.Series(Y), strength=1.0, folds=2)
    assert made.names == ("0", "1", "2")


def test_a_probe_is_made_of_arrays_lists_and_frames():
    rows, bias = [[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0]
    expected = Probe(("a", "b"), torch.tensor(rows), torch.tensor(bias))
    for weights in (rows, np.array(rows), pd.DataFrame(rows), np.array(rows, dtype=np.float16)):
        for constants in (bias, np.array(bias), pd.Series(bias)):
            made = Probe(pd.Index(["a", "b"]), weights, constants)
            assert made.names == expected.names and torch.equal(made.weights, expected.weights)
            assert torch.equal(made.logits([[1, 2]]), expected.logits(torch.tensor([[1.0, 2.0]])))
    with pytest.raises(TargetError, match="list, one per class"):
        Probe("ab", rows, bias)
    for wrong in ([[1, 2], [3]], "x", [[1j]]):
        with pytest.raises(DataError):
            numbers_in(wrong, "weights")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"model": s, "epoch": np.int64(3)},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    ],
)
def test_a_probe_opens_from_any_wrapping(tmp_path, wrap):
    layer = torch.nn.Linear(6, 3)
    torch.save(wrap(layer.state_dict()), tmp_path / "probe.PT")
    assert torch.equal(
        Probe.open(tmp_path / "probe.PT", names=pd.Series([0, 1, 2])).weights, layer.weight.detach()
    )


@pytest.mark.parametrize("weights", [[1.0] * 3, [-1.0] * 40, [float("nan")] * 40])
def test_weights_are_one_number_a_picture(weights):
    with pytest.raises(DataError, match="one number of at least 0 per picture"):
        fit_probe(E, Y, weights=weights, **QUICK)
