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
# # Quickstart: what does this model rely on?
#
# A CLIP model says how well a picture and a text fit. It does not say *why*. In a few short cells we take one model
# apart, find an unexpected reason for its score, take that reason out of the pictures, and watch the score fall.
#
# Everything here comes with the package: a small CLIP, trained on rendered scenes, in which we know what is true.

# %%
import clipattr as ca
from clipattr import plots

study = ca.open_study("picture-world")
study

# %% [markdown]
# A **study** is one folder: a model, a collection of pictures, a *dictionary* that splits the model's embeddings into
# parts called *latents*, and what is known about each latent. This is what the pictures look like.

# %%
pictures = study.images[:16]
plots.gallery([picture.load() for picture in pictures], [picture.label for picture in pictures])

# %% [markdown]
# ## What are the parts?
# Each row is a latent. Its *label* is the word that fits its strongest examples best, judged by a second model, the
# *evaluator*, so that the audited model does not grade itself. *Clarity* says how much the examples look alike,
# *frequency* on which share of the pictures the latent is active.

# %%
columns = ["label", "alignment", "clarity", "frequency", "triage"]
study.latents.sort_values("triage", ascending=False)[columns].head(8).round(2)

# %% [markdown]
# ## How much of one score comes from them?
# We ask why this picture fits the word "rabbit". Each bar is exact: it is how many points (cosine × 100) the score
# loses when that one latent is switched off. Bars to the left lower the score.

# %%
rabbit = next(picture for picture in study.images if picture.label == "rabbit")
attribution = ca.attribute(study, rabbit, "rabbit")
attribution.plot(8, title="Why does this picture fit “rabbit”?")

# %% [markdown]
# *Error* is what no latent carries, *gap* what single switches miss because latents act together. Neither is hidden.
# The same in words:

# %%
print(attribution.explain())

# %% [markdown]
# ## What would nobody expect?
# One picture is an anecdote. The audit asks for every prompt which families of latents its score rests on although
# they do not look like it, on one part of the pictures, and measures on the others what happens without them. Ten
# prompts are enough here; without a list, all labels are audited.

# %%
prompts = ["kite", "bat", "rabbit", "monkey", "tractor", "palm", "hot dog", "camel", "skateboard", "jaguar"]
findings = ca.audit(study, prompts, progress=False)
columns = ["prompt", "rests on", "kind", "reliance", "alignment", "causal_effect", "confidence"]
findings.to_frame()[columns].head(10)

# %% [markdown]
# Read a row as a sentence: the score of *prompt* falls by *causal effect* points when the family called *rests on* is
# switched off. *Alignment* says how much the family's examples look like the prompt to the evaluator, above no words at
# all; below zero, they look like anything but. On the map, the most surprising families are on top and to the left.

# %%
plots.reliance_map(findings, name=6)

# %% [markdown]
# ## Is it true?
# Take the strongest finding about an object that merely stands *beside* the prompt's own. First row: what the
# family responds to. Second row: the prompt's pictures as they are, and rendered again without the object beside.

# %%
finding = next(f for f in findings if f.kind == "companion")
scenes = [picture.scene for picture in study.images if picture.label == finding.prompt][:80]
with_it = [scene.picture() for scene in scenes]
without_it = [scene.without("companions").picture() for scene in scenes]

print(f"“{finding.prompt}” rests on “{finding.label}”: {finding.causal_effect.points()} points")
examples = [study.images[example].load() for example in finding.examples[:8]]
pairs = [picture for pair in zip(with_it[:4], without_it[:4], strict=True) for picture in pair]
plots.gallery([*examples, *pairs], ["example"] * 8 + ["as it is", "without"] * 4)

# %%
import torch

prompt = study.model.encode_text([finding.prompt])[0]


def score(pictures):
    pixels = torch.stack([study.model.prepare(picture) for picture in pictures])
    return float((study.model.encode_image(pixels) @ prompt).mean()) * 100


print(f"“{finding.prompt}”: {score(with_it):.1f} points as it is, {score(without_it):.1f} without")

# %% [markdown]
# No latent was touched this time: only the pictures changed, and the object that the prompt names is still in every
# one of them. On photographs you cannot render again, so there the audit's own measurement, and your eyes, have to do.
#
# ## Look for yourself
# The panel asks the same questions with a mouse: choose a picture and a prompt, click a bar to see what its latent
# responds to, switch latents off and watch the score. `findings.report("audit.html")` writes a page to send to others.

# %%
panel = ca.explore(study, picture=rabbit.index, prompt="rabbit")
panel

# %% [markdown]
# A panel lives as long as its kernel. A snapshot stays:

# %%
panel.snapshot()

# %% [markdown]
# Next: `clipattr study --help` for your own model and pictures, and the other notebooks in this folder.
