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
# # Meaning: what has this model learned?
#
# A dictionary splits a model's activations into latents. That gives numbers, not meanings. Here we look at what each
# latent fires on, find a word for it, and ask of every word how far it can be trusted, including the answer "nobody
# has a word for this one".
#
# The paper's first claim is that latents tell *what* a CLIP encodes: look at the strongest examples, let a second
# model find the word, sort by strength, clarity and fit. Here the pictures were rendered, so at the end we can count
# how often the word is right.

# %%
import pandas as pd
import torch

import clipattr as ca
from clipattr import plots
from clipattr.meaning import examples_of_use, quantile_examples, words_of

study = ca.open_study("picture-world")
table = study.latents
counts = study.manifest["counts"]
live = table[table["mean_top"] > 0]
print(f"{counts['pictures']:,} pictures, {counts['latents']} latents")
print(f"{len(live)} fire at all, {int(live['aligned'].sum())} of them fit a word better than chance does")


def show(latents, per_latent=6, pictures=None):
    """One row a latent: its strongest pictures, or given ones, under its name."""
    rows = study.examples.indices if pictures is None else pictures
    shown, captions = [], []
    for latent in latents:
        own = [int(row) for row in rows[latent] if row >= 0][:per_latent]
        shown += [study.images[row].load() for row in own]
        captions += [table["name"][latent] if place == 0 else "" for place in range(len(own))]
    return plots.gallery(shown, captions, columns=per_latent)


# %% [markdown]
# ## The clearest latents
# A latent's *examples* are the pictures in which it is most active. The *triage* score puts those first that are
# strong, whose examples look alike (*clarity*), and for which the vocabulary has a word (*alignment*). One row is one
# latent.

# %%
best = live.sort_values("triage", ascending=False)
columns = ["label", "alignment", "margin", "clarity", "auc", "frequency"]
best[columns].head(6).round(2)

# %%
show(best["latent"].head(4).tolist())

# %% [markdown]
# Who chose the words? Not the audited model: an independent one, the *evaluator*, so that the model does not grade
# itself. Alignment is how much closer the examples lie to the word than to the empty prompt; the margin is the lead
# over the second best word.
#
# ## How far can a name be trusted?
# One number per label answers that without any ground truth: how well does the *word alone* tell where the latent is
# active, on pictures that were not used to find the word? 1 is perfect, 0.5 is chance.

# %%
named = live[live["aligned"] & live["auc"].notna()]
cut = pd.cut(named["auc"], [0, 0.6, 0.75, 0.9, 1.0], labels=["< 0.6", "0.6 - 0.75", "0.75 - 0.9", "> 0.9"])
named.groupby(cut, observed=False).size().to_frame("latents with a label").rename_axis("AUC")

# %% [markdown]
# Names with a high AUC first, then those with a low one. In the lower rows the word fits some examples, but it does
# not say when the latent fires.

# %%
trusted = named.sort_values("auc", ascending=False)
show([*trusted["latent"].head(2), *trusted["latent"].tail(2)])

# %% [markdown]
# Three ways of finding a word can be compared: the nearest word, the word that explains the ranking best when words
# that fit everything are held back, and the word that sets the examples apart from pictures in which the latent is
# only half active. Where they agree, the name is safer.

# %%
agree = (named["label"] == named["label_evidence"]).astype(int) + (named["label"] == named["label_contrast"])
named.groupby(agree)["auc"].agg(["size", "mean"]).round(2).rename_axis("other rankings that agree")

# %% [markdown]
# ## Latents that nobody has a word for
# They are real, the vocabulary just lacks the word, or there is none. They are shown, not hidden.

# %%
nameless = live[~live["aligned"]].sort_values("mean_top", ascending=False)["latent"].head(3).tolist()
show(nameless) if nameless else print("Every latent that fires has an aligned label.")

# %% [markdown]
# Read a row from left to right and ask what its pictures share. If you find it, `study.rename(latent, "your word")`
# keeps the name with the study, and it wins over every label from then on.
#
# ## Not only the top
# The strongest examples flatter a latent. The same latent over its whole range, from the weakest quarter of the
# pictures in which it fires (first row) to the strongest (last row):

# %%
one = int(best["latent"].iloc[0])
bands = quantile_examples(study.codes, m=6)[one]
shown = [study.images[int(row)].load() for band in bands for row in band if row >= 0]
plots.gallery(shown, columns=6, title=f"{table['name'][one]}: weakest to strongest quarter")

# %% [markdown]
# ## Latents that mix
# *Mixture* is near 0 where examples lie along one direction and near 1 where they fall into two unrelated groups;
# *meanings* counts the groups. A latent that mixes two concepts gets one name at most, so its name is half the truth.

# %%
mixed = live[live["meanings"] > 1].sort_values("mixture", ascending=False)
mixed[["label", "meanings", "mixture", "clarity", "auc"]].head(3).round(2)

# %%
show(mixed["latent"].head(3).tolist()) if len(mixed) else print("No latent has two groups of examples.")

# %% [markdown]
# Concepts that look alike to the evaluator, or always co-occur, do not form two groups. Then the words say more: the
# second fits nearly as well as the first (a small *margin*), and the third is far behind. Compared with what latents
# truly mix, the margin is the best of the three numbers, and mostly the first two words are the two concepts
# (`benchmarks/examples.py`).

# %%
fit = study.labels.alignment_top.numpy()
torn = live["latent"][(live["margin"] < 0.02) & (live["frequency"] > 0.005)].to_numpy()
torn = torn[(fit[torn, 2] - fit[torn, 1]).argsort()][:3].tolist()  # the third word is furthest behind
pd.DataFrame(
    [
        [f"{row.word} {row.alignment:.2f}" for row in words_of(study, latent).head(3).itertuples()]
        for latent in torn
    ],
    index=torn,
    columns=["first", "second", "third"],
)

# %%
show(torn)

# %% [markdown]
# ## What fires is not what is used
# For one word, compare the pictures in which a latent is most *active* with those in which it carries most of the
# score. Used pictures are found by exact ablation, from what the study keeps: no picture is encoded again.

# %%
word = str(best["label"].iloc[0])
used = examples_of_use(study, word, m=6)
strongest = int(used.values.sum(1).argmax())
show([strongest])

# %%
show([strongest], pictures=used.indices)

# %%
both = set(study.examples.of(strongest)[:6]) & set(used.of(strongest))
print(f"“{table['name'][strongest]}” for the prompt “{word}”: {len(both)} of 6 pictures are in both rows.")

# %% [markdown]
# ## Finding latents
# By a text, by another latent ("more like this"), or by a picture. The match for a text is the alignment.

# %%
ca.find(study, f"a photo of a {word}", n=4).round(2)

# %%
ca.find(study, one, n=4).round(2)

# %% [markdown]
# ## Families
# One concept is often spread over several latents, by size, place or strength. Families gather them. Findings and
# repairs refer to the family, not to one latent.

# %%
groups = ca.families(study)
several = [group for group in groups if len(group) > 1]
print(f"{len(groups)} families of {len(live)} latents; {len(several)} have more than one member")
for group in several[:5]:
    words = table.loc[group, "name"].value_counts().head(3)
    print(f"  {len(group):2d} latents: " + ", ".join(f"{name} × {n}" for name, n in words.items()))

# %% [markdown]
# ## Are the names right?
# Elsewhere one can only ask for the AUC. Here the pictures were rendered, so we know what each one shows, and can
# count. A latent *has a true factor* if "more active than some bound" predicts "the picture shows it" with F1 of at
# least 0.8. Factors in fewer than 20 pictures are left out.

# %%
shown_in = {}
for record in study.images:
    scene = record.scene
    for thing in {scene.main, *scene.companions, scene.context} - {None}:
        shown_in.setdefault(thing, torch.zeros(len(study.images)))[record.index] = 1
factors = [thing for thing, pictures in shown_in.items() if pictures.sum() >= 20]
present = torch.stack([shown_in[thing] for thing in factors])
codes, rows = study.codes.to_scipy().tocsc(), []
for latent in live["latent"]:
    code = torch.from_numpy(codes[:, [latent]].toarray()[:, 0])
    ranked = code.argsort(descending=True)[: int((code > 0).sum())]
    hits, chosen = present[:, ranked].cumsum(1), torch.arange(1, len(ranked) + 1)
    f1 = (2 * hits / (chosen + present.sum(1, keepdim=True))).amax(1)
    rows.append((factors[int(f1.argmax())], float(f1.max())))
truth = live[["label", "auc"]].assign(factor=[r[0] for r in rows], f1=[r[1] for r in rows])
true = truth[truth["f1"] >= 0.8]
right = true["label"] == true["factor"]
print(f"{len(true)} of {len(live)} live latents have a true factor; {right.mean():.0%} are named after it")

# %% [markdown]
# And does the AUC know it, without the truth? All live latents, right names against wrong ones:

# %%
truth["name is right"] = truth["label"] == truth["factor"]
truth.groupby("name is right")["auc"].describe()[["count", "25%", "50%", "75%"]].round(2)

# %% [markdown]
# So the claim holds for the latents that follow one concept, and those are a small part. Most latents follow a part of
# an object, or an object in a place, and their words are right less often. Right names have the higher AUC, so
# where no truth is at hand, sort by it and distrust the rest.
#
# `benchmarks/examples.py` has these figures for all bundled studies, with written words and watermarks among the
# factors, and what collecting all of this costs: little more than encoding the pictures. On a folder of your own, the
# whole of it is one call:
#
#     study = ca.build_study("ViT-B-32:openai", "pictures/", path="my-study", evaluator="ViT-L-14:openai")
