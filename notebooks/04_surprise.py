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
# # Surprise: what is this model wrong about?
#
# A model answers *camel*. Does it see the camel, or the desert behind it? An audit goes through all prompts, collects
# what each answer relies on, and keeps the unexpected reliances: those that the prompt does not describe and that
# other pictures confirm.
#
# The paper finds polysemous words, compound nouns, visual typography and dataset artefacts in large CLIP models, by a
# filter and a human eye. Here the same kinds were planted into a small model, so that every finding can be checked.

# %%
import pandas as pd

import clipattr as ca
from clipattr import plots

study = ca.open_study("picture-world")
findings = ca.audit(study, progress=False)
table = findings.to_frame()
table.groupby("kind").size().to_frame("findings").T

# %% [markdown]
# ## The strongest of each kind
# *Reliance* and *causal effect* are in points (cosine × 100). The causal effect is what the prompt's score loses when
# all latents of the finding are removed at once, on held-back pictures, with its 95 % interval. Of a finding that was
# proved by inserting the prompt as text into other pictures, it is what the prompt's score gains by that.

# %%
columns = ["prompt", "rests on", "kind", "reliance", "causal_effect", "effect_low", "confidence"]
table.groupby("kind", sort=False).head(2)[columns]

# %% [markdown]
# ## One finding, looked at
# On top: pictures that the latents of the finding like best, whatever the prompt. Below: the prompt's own pictures on
# which the reliance was measured. If both rows share a concept that is not the prompt's, the model has learnt
# that concept instead.

# %%
finding = next(f for f in findings if f.kind == "context")
by_id = {picture.id: picture for picture in study.images}
rows = [by_id[name].load() for name in finding.examples[:8]]
rows += [by_id[name].load() for name in finding.evidence["prompt_examples"][:8]]
titles = [finding.label] + [""] * 7 + [finding.prompt] + [""] * 7
plots.gallery(rows, titles, columns=8)

# %% [markdown]
# The evidence behind it, number by number.

# %%
told = {name: value for name, value in finding.evidence.items() if name != "prompt_examples"}
pd.Series(told).to_frame(f"{finding.prompt} / {finding.label}")

# %% [markdown]
# ## Is it true?
# In this world a picture can be drawn again without the suspected cause. Nothing else changes: not one other pixel.

# %%
from clipattr_data.effects import contrasts, effect
from clipattr_data.world import World

world = World.open("picture-world-a")
plant = next(p for p in world.plants if p.prompt == finding.prompt)
pairs = plant.scenes(world, 60)
column = contrasts(study.model, world.vocabulary)[:, world.vocabulary.index(plant.prompt)]
mean, low, high = effect(study.model, column, pairs)
loss = f"{100 * mean:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
print(f"Drawn again without {plant.cause}, {plant.prompt!r} loses {loss}.")
plots.gallery([scene.picture() for pair in pairs[:4] for scene in pair], ["with", "without"] * 4, columns=8)

# %% [markdown]
# The ablation in the model and the removal from the picture need not agree: the first is the effect of these
# latents in the model, the second the effect of the object in the picture. Both are worth knowing.
#
# ## All of it at once
# Every plant of this world that the model has learnt, and whether the audit found it.

# %%
import json

from clipattr_data import models_dir

learnt = [
    row for row in json.loads((models_dir() / world.name / "effects.json").read_text()) if row["learnt"]
]
found = {f.prompt for f in findings}
seen = pd.DataFrame(learnt).assign(audited=lambda t: t["prompt"].isin(found))
seen.groupby("kind")["audited"].agg(found="sum", planted="count")

# %% [markdown]
# The full judgement, by what happens to the latents and not by prompt, with chance intervals, over several models and
# beside simpler ways to choose suspects, is `python benchmarks/planted.py --baselines`.
#
# **Next:** [05_repair](05_repair.ipynb) takes such a reliance out.
