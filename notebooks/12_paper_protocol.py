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
# # The paper's protocol, step by step
#
# Dreyer et al. 2025, [arXiv:2505.20229](https://arxiv.org/abs/2505.20229), train sparse autoencoders on eight
# CLIPs, name their latents with MobileCLIP-S2, and rank them by strength, clarity and alignment. `ca.presets.paper`
# is that protocol as a value. With weights, ImageNet and a day, its calls repeat the study. Here they run on
# stand-ins: a bundled model in place of a ViT-B/32, six hundred rendered scenes in place of ImageNet, the bundled
# evaluator in place of MobileCLIP.
#
# So nothing below is a result about the paper's models. Where the paper makes a claim that stand-ins can test, we
# say what came out.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import clipattr as ca
from clipattr import plots
from clipattr.attribution.faithfulness import faithfulness

paper = ca.presets.paper
pd.Series({name: str(value) for name, value in paper.settings().items()}, name=paper.source).to_frame()

# %%
pd.DataFrame(paper.variants, columns=["model", "weights"])

# %% [markdown]
# The full protocol is one call per variant. The remaining differences between the package and the protocol are listed:
#
# ```
# for name, weights in paper.variants:
#     study = paper.build(ca.load_model(name, pretrained=weights), "imagenet/train", path=f"{name}-{weights}.study")
# ```

# %%
for difference in paper.differences:
    print("-", difference)

# %% [markdown]
# ## Stand-ins
# Settings that make sense for a million photographs do not for six hundred drawings. Each change is an argument.

# %%
bundled = ca.open_study("picture-world")
pictures = bundled.images[:600]
folder = Path(tempfile.mkdtemp())
study = paper.build(
    "picture-world-a",
    pictures,
    path=folder / "stand-in.study",
    n_latents=128,
    k=8,
    evaluator="picture-world-evaluator",
    vocabulary=bundled.vocabulary,
    training={**paper.training, "epochs": 60},
    progress=False,
)
study

# %% [markdown]
# ## What: clear latents, in the order of triage
# Mean top activation × clarity × alignment, among latents with a clarity above 0.4.

# %%
shown = paper.triage(study)[["label", "mean_top", "clarity", "alignment", "triage"]]
print(f"{len(shown)} of {len(study.latents)} latents are clear")
shown.head(6).round(2)

# %% [markdown]
# ## Outliers: strong, clear, and no word fits
# In the paper these have alignments around 0.05 to 0.08 to MobileCLIP. That scale belongs to the evaluator, so here
# the line is drawn at the lowest tenth instead.

# %%
clear = paper.triage(study)
line = float(clear["alignment"].quantile(0.1))
outliers = paper.outliers(study, below=line)

figure, axes = plt.subplots(figsize=(6.4, 3.4))
axes.scatter(clear["alignment"] * 100, clear["mean_top"], s=14, color="#8a8f98", label="clear latents")
axes.scatter(outliers["alignment"] * 100, outliers["mean_top"], s=22, color="#c0392b", label="outliers")
axes.set(xlabel="best alignment (points)", ylabel="mean top activation")
axes.legend(frameon=False)
plt.show()

# %%
latent = int(outliers.iloc[0]["latent"])
examples = [int(row) for row in study.examples.indices[latent][:10] if row >= 0]
print(f"latent {latent}, best word “{outliers.iloc[0]['label']}”")
plots.gallery([study.images[row].load() for row in examples], side=1.2)

# %% [markdown]
# Look at the pictures before believing the word, or the lack of one: on six hundred pictures an outlier is mostly
# a latent that has too few examples.
#
# ## How: attribution of one prompt
# The protocol's target is the plain cosine, its method attribution patching, and the unit points. High attribution
# at low alignment is what the paper calls unexpected.

# %%
picture = study.images[7]
found = paper.attribute(study, picture, picture.label)
found.top(6)[["latent", "label", "activation", "attribution", "alignment"]].round(3)

# %% [markdown]
# ## The claim about the logit lens
# The paper says that the logit lens is not faithful: removing latents in its order lowers the score less than in
# the order of attribution patching. The test needs no photographs, only a model.

# %%
words = sorted({picture.label for picture in pictures if picture.label in study.vocabulary.words})[:4]
report = faithfulness(
    study,
    pictures[:24],
    ca.Similarity(words),
    methods=["patching", "act_logit_lens", "logit_lens", "energy", "random"],
    masks=16,
)
report.plot("deletion")

# %%
for other in ("act_logit_lens", "logit_lens", "energy", "random"):
    difference, p = report.compare("patching", other, "deletion")
    low, high = difference.low * 100, difference.high * 100
    verdict = (
        "patching is faster" if low > 0 else f"{other} is faster" if high < 0 else "no difference to be seen"
    )
    print(f"patching − {other}: {difference.value * 100:+.2f} points [{low:+.2f}, {high:+.2f}]: {verdict}")

# %% [markdown]
# An interval above zero means that patching's order lowers the score faster. The claim holds here for the plain logit
# lens, if by little. Times the activation, the lens comes close at this last block, where little but a LayerNorm
# follows. `03_reliance` does the same with the bundled dictionary and more measures.
#
# ## Beyond the protocol
# The paper ends where a person looks at outliers. `ca.audit` goes on: contrasts in place of plain cosines, exact
# ablation, families in place of single latents, and an effect measured on pictures that played no part in finding
# it (`04_surprise`).
#
# ## Exercises
# 1. Why does the protocol divide nothing by the sum of attributions?
#
#    <details><summary>Answer</summary>A cosine ignores length, so the attributions of all parts, bias and error
#    among them, nearly cancel. A share of a sum near zero says nothing.</details>
#
# 2. The vocabulary of the paper takes the first name of every ImageNet-21k entry. What is “queen” then?
#
#    <details><summary>Answer</summary>One spelling for several entries (the monarch, the chess piece, the cat, the
#    bee …), which the evaluator cannot distinguish. <code>vocabulary="imagenet21k"</code> in
#    <code>ca.build_study</code> keeps them apart by a second name or the gloss.</details>
