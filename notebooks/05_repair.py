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
# # Repair: take the reliance out, and see what it costs
#
# A finding is useful if it can be repaired. The paper shows that CLIP models have unexpected reliances; here we ask
# whether removing one helps. We free one prompt from what its pictures often show beside it, the
# *cause*, and measure on pictures in which the two are independent: as many with the cause as without, for the class
# and for all others.

# %%
import tempfile
from pathlib import Path

import clipattr as ca
from clipattr_data.labelled import balanced, write
from clipattr_data.world import World

study = ca.open_study("picture-world")
findings = ca.audit(study, progress=False)
finding = max((f for f in findings if f.kind == "context"), key=lambda f: f.causal_effect.value)
print(f"{finding.prompt!r} rests on {finding.label!r}: {finding.causal_effect.points()} points")

# %% [markdown]
# ## A balanced test set
# Four groups of equal size; the two pictures of a class differ in the cause alone.

# %%
world = World.open("picture-world-a")
plant = next(p for p in world.plants if p.prompt == finding.prompt)
folder = Path(tempfile.mkdtemp())
pictures = write(balanced(world, 100, [plant]), folder / "balanced.jsonl")
test = ca.Images.open(f"scenes:{pictures}")
sorted(set(test.columns["group"]))

# %% [markdown]
# ## Before and after
# The default repair takes the direction of the cause out of *this prompt's* text embedding and fits what is left
# again, on pictures of the study that count alike with and without the cause; other prompts stay as they were.
# *Worst group* is the group with the lowest accuracy.

# %%
fixed = ca.repair(study, finding)
fixed.evaluate(test)

# %% [markdown]
# Switching the latents off looks like the obvious repair, and does not help: a picture without the cause has no
# such latents to switch off, and what the prompt misses there stays missing.

# %%
ca.repair(study, finding, how="ablate").evaluate(test)

# %% [markdown]
# ## Several at once, on everyday pictures
# The held-back pictures of the study have the same correlations as the training pictures, so a repair can only lower
# accuracy here. This loss is the cost of the repair. Repaired prompts also take pictures from each other, so several
# are chosen together, on pictures that they were not fitted on: they go only as far as accuracy over all classes
# falls by one point at most.

# %%
contexts = [f for f in findings if f.kind in ("context", "companion")]
several = ca.repair(study, contexts)
several.evaluate()

# %% [markdown]
# How far they went: from the rows of the method `to` (0) towards those of the method `of` (1).

# %%
together = several.classifier().about["together"]
{key: together[key] for key in ("of", "to", "strength")}

# %% [markdown]
# ## Take it with you
# A repaired prompt is a fixed classifier: weights, a bias and class names, for embeddings of the unchanged model.

# %%
written = fixed.export(folder / "fixed")
sorted(path.name for path in written.iterdir())

# %% [markdown]
# **Next:** [06_compare_variants](06_compare_variants.ipynb) sets two models side by side.
