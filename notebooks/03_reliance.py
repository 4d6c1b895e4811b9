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
# # Reliance: what does this similarity rest on?
#
# A score is one number; a picture has a dozen active latents. Here we ask how much of the score each latent
# carries, where in the picture that latent looks, and which of several methods of asking can be trusted.

# %%
import pandas as pd
import torch

import clipattr as ca
from clipattr import plots
from clipattr.attribution import VocabularyContrast, firing_map
from clipattr.attribution.faithfulness import faithfulness
from clipattr.display.plots import overlay

study = ca.open_study("picture-world")
picture = next(picture for picture in study.holdout if picture.label == "rabbit")
plots.gallery([picture.load()], ["rabbit"], side=1.6)

# %% [markdown]
# ## One score, switched off latent by latent
# `exact` removes one latent at a time and reads the score again. A bar to the right: the score falls without this
# latent. *Bias* and *error* are no latents; the *gap* is what single removals miss because latents act together.

# %%
single = ca.attribute(study, picture, "rabbit")
single.plot(8, title="“rabbit”, one latent removed at a time")

# %%
print(single.explain())

# %% [markdown]
# Single removals need not sum to anything. Where a sum is wanted, use a method that adds up: integrated gradients
# go from the picture without any latent to the picture as it is. Read from the top: each bar starts where the last
# one ended, and the dotted line is the score.

# %%
together = ca.attribute(study, picture, "rabbit", method="integrated_gradients")
together.plot_waterfall(7, title="“rabbit”, from no latents to all")

# %% [markdown]
# ## Rabbit rather than what?
# A latent may lift every prompt alike. Against the mean over the vocabulary such latents drop out, and the evidence
# for *this* word remains. Audits use it. *Alignment* is what the evaluator says: how much the latent's
# examples look like the prompt. A high share at low alignment is suspicious.

# %%
against_all = ca.attribute(study, picture, VocabularyContrast(["rabbit"], study.vocabulary))
against_all.top(6)[["label", "activation", "attribution", "share", "alignment"]].round(3)

# %% [markdown]
# ## Where does a latent look?
# The map is warm where patches make the latent fire, cold where they hold it back. Left the picture, then the three
# latents that weigh most, for or against.

# %%
strongest = against_all.top(3)
maps = firing_map(study, study.model.prepare(picture.load())[None], strongest["latent"].tolist())[0]
shown = [picture.load(), *(overlay(picture.load(), heat) for heat in maps)]
plots.gallery(shown, ["rabbit", *strongest["label"]], side=1.6)

# %% [markdown]
# A warm patch on the object that the latent is named after confirms the name. The scene's own drawing says what
# stands where, so that we can count: the share of each map's positive mass on each object, beside the share of the
# picture that the object fills. Equal shares would mean that the map knows nothing of the object.

# %%
from clipattr.attribution.maps import mass_inside

rows = {}
for thing in picture.scene.truth().objects:
    masks = torch.from_numpy(thing.mask)[None].expand(len(maps), -1, -1)
    inside = mass_inside(maps, masks).tolist()
    rows[thing.name] = {f"map of {a}": share for a, share in zip(strongest["label"], inside, strict=True)}
    rows[thing.name]["fills"] = float(thing.mask.mean())
print("context:", picture.scene.context)
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# The latent that carries most of the score is named “carrot”. Its map lies on the rabbit about six times as much as
# the rabbit's size would give, but on the carrot three times as well: it seems to want both. The one called “computer
# pointer” fires on the rabbit itself, the one called “wooden floor” on neither. A name is a hint; the map and the
# removal are evidence. The alignment does not warn here: the latent's examples show rabbits too.

# %% [markdown]
# ## Why not the logit lens?
# The logit lens multiplies a latent's direction with the text and never looks at the rest of the picture. That is
# quick, but is it what the model does? Every method gets the same held-back pictures and prompts, and is compared
# with what really happens when latents are taken away.

# %%
pictures = study.holdout[:24]
words = ["rabbit", "kite", "tractor", "bat"]
report = faithfulness(study, pictures, VocabularyContrast(words, study.vocabulary))
report.plot()

# %% [markdown]
# 1 means the method ranks latents exactly as removing them one by one does, 0 is chance. This measure favours
# methods that approximate single removals, `exact` itself most of all. So take a second one: remove latents in the
# order each method proposes, and see how far the score falls on average. Here no method is right by definition.

# %%
report.plot("deletion")

# %%
measures = ["rank_correlation", "deletion", "insertion", "group_effects"]
wide = report.table.pivot(index="method", columns="measure", values="mean")[measures]
pd.concat([wide[["deletion", "insertion"]] * 100, wide[["rank_correlation", "group_effects"]]], axis=1).loc[
    report.methods
].round(2)

# %% [markdown]
# Deletion and insertion are in points. Is the difference more than luck? Pictures are what is compared, in pairs.

# %%
for other in ("patching", "act_logit_lens", "logit_lens", "energy"):
    difference, p = report.compare("exact", other, "deletion")
    low, high = difference.low * 100, difference.high * 100
    print(f"exact − {other}: {difference.value * 100:+.2f} points [{low:+.2f}, {high:+.2f}], p = {p:.4f}")

# %% [markdown]
# Result: energy does no better than chance, so a strong latent is not therefore an important one. The
# logit lens knows the direction of most effects, but ranks worse, predicts groups worse, and finds a weaker order
# of removal. Times the activation it comes close at this last block, where only a LayerNorm lies between latent and
# score. Exact removal and patching agree almost entirely, and integrated gradients predict groups best. With 24
# pictures and four prompts these are small differences between the best; the large one, to the logit lens, is
# beyond luck.
#
# Is there a judge outside the model's own latents? In the picture world there is: take a cause out of the scene,
# draw the picture again, and compare the true change with what a method predicts from the codes that changed. Over
# the three bundled studies `benchmarks/faithfulness.py` finds integrated gradients nearest to it, then exact
# removal together with activation × logit lens, then the logit lens; patching comes last of these, since a slope at
# the picture says little about the long way to a picture without the cause. For one latent use `exact`, for sums
# `integrated_gradients`.
#
# The same on a study of your own: `clipattr faithfulness STUDY --prompts classes.txt`.
