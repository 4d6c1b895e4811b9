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
# # Both towers: which words meet which parts of a picture?
#
# A score has two sides. The picture is a sum of image latents, the prompt is a sum of text latents, and the cosine
# is the sum of all their products. So a score can be written as a table. Here it shows how one word, "palm", means
# a tree and a hand at once.

# %%
import numpy as np

import clipattr as ca

study = ca.open_study("picture-world")
labels = np.array(study.images.columns["label"])

# %% [markdown]
# ## Latents of texts
# The text tower has sites as the image tower has: `text.-1.eot` is the stream at the token that is pooled. A
# dictionary over it is trained on the study's vocabulary, each word in a few templates. Its latents are named by
# the words that they fire for.

# %%
text_sae = ca.train_text_sae(study, n_latents=256, k=3, steps=600, progress=False)
print(text_sae.site, text_sae.n_latents, "latents")
print([name for name in text_sae.info["words"] if "palm" in name or "bat" in name])

# %% [markdown]
# ## Two pictures with one label
# Some pictures with the label "palm" show a tree, others an open hand. The evaluator, which is another model, picks
# the clearest of each.


# %%
def clearest(label, look):
    """The picture with this label that shows this look most clearly to the evaluator."""
    rows = np.flatnonzero(labels == label)
    sims = study.seen(rows) @ study.evaluator.encode_text([look])[0]
    return study.images[int(rows[int(sims.argmax())])]


tree, hand = clearest("palm", "palm"), clearest("palm", "open hand")
ca.plots.gallery([tree.load(), hand.load()], captions=["palm as a tree", "palm as a hand"])

# %% [markdown]
# ## The table of pairs
# Rows are image latents, columns text latents, cells are points (cosine × 100). The cells add up to the sums at the
# edges, and these to the score. `bias` is what all pictures or all texts share, `error` what the dictionary leaves
# out: both are part of the score, so both are shown.

# %%
as_tree = ca.pairs(study, tree, "palm", text_dictionary=text_sae)
as_hand = ca.pairs(study, hand, "palm", text_dictionary=text_sae)
as_hand.plot(n=5)

# %%
as_tree.plot(n=5)

# %% [markdown]
# The same text latent leads in both tables. In the hand picture it meets image latents named "open hand", in the
# tree picture one named "palm". The text tower keeps no sense apart: what makes "palm" a hand is that its one
# direction is close to both image latents.

# %%
for name, found in (("tree", as_tree), ("hand", as_hand)):
    pairs = found.table()
    meeting = pairs[pairs.image_latent.notna() & pairs.text_latent.notna()].head(3)
    print(
        name,
        f"score {100 * found.score:.1f} points, {100 * found.between_latents:.1f} from latents to latents",
    )
    for row in meeting.itertuples():
        print(f"   {100 * row.value:+5.1f}  {row.image_label:12} × {row.text_label}")

# %% [markdown]
# The sums are exact, not fitted:

# %%
for found in (as_tree, as_hand):
    total = found.table()["value"].sum()
    assert abs(total - found.score) < 1e-5
    assert abs(found.rows["value"].sum() - found.score) < 1e-5
    assert abs(found.columns["value"].sum() - found.score) < 1e-5

# %% [markdown]
# ## Many prompts at once
# `stream_pairs` encodes each side once. Which prompts does the open hand meet, through which text latent?

# %%
prompts = ["palm", "open hand", "gloves", "cactus", "bat", "mouse"]
for found in ca.stream_pairs(study, hand, prompts, text_dictionary=text_sae):
    own = found.columns[found.columns.latent.notna()].iloc[0]
    print(
        f"{found.text.name:10} {100 * found.score:5.1f} points; most through “{own.label}” ({100 * own.value:+.1f})"
    )

# %% [markdown]
# ## Latents of a prompt, against any target
# A product in the table says how much of this score runs through two latents. What *changes* when a text latent is
# taken out is asked by `attribute`, which takes texts at a site of the text tower. The target is read off the
# text's embedding: here the contrast of the two pictures. The prompt "open hand" is no help: this model never
# learnt those words, so that naming the hand does not find it.

# %%
embeddings = [
    study.model.encode_image(study.model.prepare(picture.load())[None])[0] for picture in (tree, hand)
]
contrast = ca.Contrast(*embeddings)
found = ca.attribute(study, ["palm", "cactus", "open hand"], contrast, dictionary=text_sae)
for number, prompt in enumerate(["palm", "cactus", "open hand"]):
    print(f"{prompt:10} tree − hand {100 * float(found.y[number, 0]):+6.1f} points")
    top = found.top(2, picture=number)
    print("          ", ", ".join(f"{r.label}: {100 * r.attribution:+.1f}" for r in top.itertuples()))

# %% [markdown]
# ## Words of a prompt
# Which word of a longer prompt does it? Leaving a word out and encoding the rest is exact, but words act together,
# so that the values need not add up. Integrated gradients along the token embeddings do.

# %%
for method in ("leave_one_out", "integrated_gradients"):
    words = ca.word_attribution(study, "a photo of a palm", ca.Similarity(embeddings[1]), method=method)
    shown = ", ".join(
        f"{w} {100 * v:+.1f}" for w, v in zip(words.words, words.values[:, 0].tolist(), strict=True)
    )
    print(f"{method}: {shown}; left over {100 * float(words.gap[0]):+.1f}")
