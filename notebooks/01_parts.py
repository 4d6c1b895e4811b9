# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Parts: train a dictionary and judge it
#
# A dictionary writes an activation as a sum of a few directions out of many. Anyone can train one; the question is
# whether it is any good. Here we train several kinds on the activations of a small model, compare each with untrained
# dictionaries, and, since the pictures are rendered, with their true contents.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import clipattr as ca
from clipattr.studies.cards import factor_scores, scene_factors, study_card

study = ca.open_study("picture-world")
acts = torch.from_numpy(np.asarray(study.activations[study.rows], np.float32))
held_back = torch.from_numpy(np.asarray(study.activations[study.holdout_rows], np.float32))
print(f"{study.site}: {len(acts)} activations to train on, {len(held_back)} held back, width {acts.shape[1]}")

# %% [markdown]
# ## Train one
# On a real model the activations come from `ca.collect_activations(model, pictures, "image.-1.cls", folder)`, which
# keeps them on disk, continues after an interruption, and is read in shuffled order; `train_sae` takes the store as it
# takes a tensor. `log` is called after every step. It changes nothing about the result. The sizes below are set by
# hand, to see each of them; section "Without a size" has them chosen.

# %%
curve: list[dict[str, float]] = []
settings = {"n_latents": 512, "k": 16, "steps": 300, "batch": 1024, "lr": 1e-3, "progress": False}
sae = ca.train_sae(acts, log=curve.append, site=study.site, model_hash=study.model.weights_hash, **settings)
figure, axis = plt.subplots(figsize=(5, 2.4))
axis.semilogy([figures["step"] for figures in curve], [figures["loss"] for figures in curve])
axis.set(xlabel="step", ylabel="share of variance\nleft unexplained")
plt.show()
sae

# %% [markdown]
# γ is the length of the data's mean over its spread. Where it is large, an uncentred dictionary spends latents on the
# mean; training here subtracts it and folds it back into the weights, so that the result takes plain activations.

# %%
print({name: round(sae.info[name], 3) for name in ("gamma", "fvu", "l0", "dead")})

# %% [markdown]
# ## Nothing gets lost
# What the latents do not explain stays as the error node. Latents, bias and error add up to the activation.

# %%
codes = sae.encode(held_back)
error = sae.error(held_back, codes)
gap = (sae.decode(codes) + error - held_back).abs().max()
share = error.square().sum() / (held_back - held_back.mean(0)).square().sum()
print(
    f"{codes.counts().float().mean():.0f} latents a picture, error node {share:.1%} of the variance, gap {gap:.0e}"
)

# %% [markdown]
# ## The card
# One call judges a dictionary on the held-back pictures: reconstruction, what becomes of the model's answers when the
# reconstruction takes the activation's place (`recovered`, `zero_shot`), whether a latent's pictures look alike to an
# independent model (`monosemanticity`), and how well the best latent detects each true factor (`factor`). The same
# figures are shown for four untrained dictionaries with as many active latents.

# %%
card = study_card(study, sae)
card.to_frame().round(3)

# %% [markdown]
# Where an untrained dictionary does as well, the card says so. That is worth reading: principal components also
# reconstruct well, which is no sign that one of them *means* anything.

# %%
print("\n".join(card.verdict) or "The dictionary beats its controls in every figure.")

# %% [markdown]
# ## Which latent is which factor?
# The area under the curve (AUC) asks: how often is the latent stronger on a picture with the factor than on one
# without? 0.5 is guessing. Dictionaries can split one factor over several latents, or merge two that come together;
# the low end of this list is where to look for that.

# %%
names, truth = scene_factors(study.images, study.holdout_rows)
auc, f1 = factor_scores(codes, truth)
best = auc.argmax(0)
table = pd.DataFrame(
    {
        "factor": names,
        "latent": best,
        "AUC": auc.max(0).values,
        "F1": f1[best, range(len(names))],
        "pictures": truth.sum(0).astype(int),
    }
).sort_values("AUC", ascending=False)
pd.concat([table.head(6), table.tail(6)]).round(3)

# %% [markdown]
# ## Other kinds
# Kinds differ in which pre-activations become codes. The same card compares them; `l0` says how many latents each
# picture really gets, which matters when reconstruction is compared.

# %%
figures = {}
for kind in ("topk", "batchtopk", "matryoshka", "jumprelu", "relu"):
    made = sae if kind == "topk" else ca.train_sae(acts, kind=kind, site=study.site, **settings)
    figures[kind] = ca.make_card(made, held_back, factors=truth, controls=False).figures
pd.DataFrame(figures).T.drop(columns=["explained_variance"]).round(3)

# %% [markdown]
# ## Without a size
# `ca.train_sae(acts)` takes a recipe that follows from the width and the number of activations. With a `budget` it
# trains several in one pass and keeps the one of largest score: how far a linear reading finds its latents again on
# other pictures (`agreement`), times the squared share of variance explained. `info["choice"]` says what was tried.

# %%
recipes = [ca.Recipe(288, 5, kind="nested", whiten=1.0, lr=2e-3), ca.Recipe(512, 16, lr=1e-3)]
chosen = ca.choose_sae(acts, recipes=recipes, budget=1e12, steps=300, batch=250, progress=False)
print(chosen.info["choice"]["why"])
tried = pd.DataFrame(chosen.info["choice"]["tried"])[["recipe", "score", "agreement", "fvu", "l0"]]
tried.round(3)

# %% [markdown]
# ## Would another seed find the same?
# Two seeds train in one pass over the data, each exactly as it would alone. Their directions are matched one to one;
# the histogram shows the cosine of each pair. Latents that every seed finds are in the data, the others may not be.

# %%
from scipy.optimize import linear_sum_assignment

one, other = ca.train_saes(acts, seeds=(1, 2), **settings)
cosines = (one.decoder @ other.decoder.T).numpy()
pairs = cosines[linear_sum_assignment(cosines, maximize=True)]
figure, axis = plt.subplots(figsize=(5, 2))
axis.hist(pairs, bins=40, range=(0, 1))
axis.set(xlabel="cosine of matched directions", ylabel="latents", title=f"mean {pairs.mean():.2f}")
plt.show()

# %% [markdown]
# ## Keep it
# The card travels with the dictionary. `load_sae` opens the files of other projects in the same way, and
# `check` shows whether a file is read as its author meant it: it prints what every plausible reading leaves
# unexplained.

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    sae.save(folder)
    again = ca.load_dictionary(folder)
print(again.hash == sae.hash, again.card["figures"]["factor_auc"] == card.figures["factor_auc"])
readings = again.check(held_back)
