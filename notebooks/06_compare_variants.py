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
# # Comparing variants: whose quirk is it?
#
# The paper finds its cases in eight CLIP models, one at a time. Here is the same question side by side: two models of
# one architecture, trained on differently biased captions of the same concepts. Which unexpected reliances do they
# share, and which are one model's own?

# %%
import clipattr as ca
from clipattr.discovery.audit.run import Settings

one, other = ca.open_study("picture-world"), ca.open_study("picture-world-c")
# Tests that need forward passes are left out, since they take most of the time; 04 has them.
quick = Settings(budget=0)
audits = [ca.audit(study, settings=quick, progress=False) for study in (one, other)]
both = ca.compare({"variant a": one, "variant c": other}, findings=audits)
print(f"{len(both)} reliances on {both.pictures} pictures, found in one model or in both")

# %% [markdown]
# ## One table
# Each row is a prompt and a cause; the columns say how strongly each model relies on it. An empty cell: this model's
# audit found nothing.

# %%
both.frame.head(20)

# %% [markdown]
# ## One plot

# %%
both.plot(20)

# %% [markdown]
# ## Shared, and one model's own

# %%
print("shared:", len(both.shared()))
for name in ("variant a", "variant c"):
    own = both.only(name)
    print(f"only {name}: {len(own)}, for instance " + ", ".join(f"{f.prompt} / {f.label}" for f in own[:4]))

# %% [markdown]
# A shared reliance comes from captions that both models share, the other reliances from the captions of one model.
# What was planted
# into which variant is written down, so this can be checked.

# %%
from clipattr_data.world import World

planted = {
    name: {p.prompt for p in World.open(name).plants} for name in ("picture-world-a", "picture-world-c")
}
only_a = [f.prompt for f in both.only("variant a")]
share = sum(prompt in planted["picture-world-a"] for prompt in only_a) / max(1, len(only_a))
print(f"{share:.0%} of variant a's own findings speak of prompts that were planted there.")

# %% [markdown]
# **Next:** [07_prompts_or_probes](07_prompts_or_probes.ipynb) asks how a fitted classifier uses such concepts.
