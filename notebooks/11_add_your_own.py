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
# # Add your own: a target, a method, a dictionary, a vocabulary
#
# The parts of the package are functions and values, so that one of them can be replaced without touching the
# others. In each section we write one of our own in a few lines and hold it against something that is known.

# %%
import pandas as pd
import torch

import clipattr as ca
from clipattr.attribution import VocabularyContrast
from clipattr.attribution.faithfulness import faithfulness
from clipattr.attribution.targets import LinearTarget

study = ca.open_study("picture-world")
picture = next(picture for picture in study.holdout if picture.label == "rabbit")

# %% [markdown]
# ## A target: what is explained
# Any differentiable function of the embedding can be explained. Here: how much better the word fits than its best
# rival.

# %%
words = ["rabbit", "carrot", "camel", "kite"]
text = study.model.encode_text(words)


def margin(embeddings):
    scores = embeddings @ text.T
    return scores[:, 0] - scores[:, 1:].max(dim=1).values


found = ca.attribute(
    study, picture, ca.FunctionTarget(margin, names=["rabbit over its best rival"], unit="cosine")
)
found.plot(6, title="“rabbit” over its best rival")

# %% [markdown]
# A target that is *linear* in the embedding is worth declaring as such: it runs through the closed form, thousands
# at a time, and exact ablation needs no further pass through the model. Does the short way give the same as the
# long one?


# %%
class Mean(LinearTarget):
    """Mean similarity to several prompts."""

    def __init__(self, prompts):
        self.prompts, self.names = prompts, [f"mean of {len(prompts)}"]

    def linear(self, model):
        weights = model.encode_text(self.prompts).mean(0)[:, None]
        return weights, weights.new_zeros(1)


templates = ["a rabbit", "a photo of a rabbit", "a small rabbit"]
short = ca.attribute(study, picture, Mean(templates))
mean = study.model.encode_text(templates).mean(0)
long = ca.attribute(study, picture, ca.FunctionTarget(lambda e: e @ mean, names=["mean"]), method="exact")
print("largest difference below a millionth:", bool((short.values - long.values).abs().max() < 1e-6))

# %% [markdown]
# ## A method: what each part is credited with
# Shall a latent be credited with its first-order effect, or the effect of halving it, twice? The second looks a
# step further. We register it, and ask which order of removing latents makes the score fall fastest.


# %%
@ca.register_method("halving")
def halving(splice):
    """Twice the fall of the target when a code is halved, each latent alone."""
    amounts = splice.amounts[:, None].repeat(1, splice.parts, 1) - 0.5 * torch.diag_embed(splice.changes)
    return 2 * (splice.y[:, None] - splice.states(amounts))


# %%
target = VocabularyContrast(["rabbit", "kite"], study.vocabulary)
report = faithfulness(
    study, study.holdout[:8], target, methods=["exact", "patching", "halving", "random"], masks=16
)
wide = report.table.pivot(index="method", columns="measure", values="mean")[["rank_correlation", "deletion"]]
wide.loc[list(report.methods)].round(3)

# %% [markdown]
# The tail behind this site is nearly linear for steps of this size, so all three sensible methods agree, and random
# order does not. Where they part is at earlier blocks.

# %%
del ca.METHODS["halving"]

# %% [markdown]
# ## A dictionary: how the embedding is cut
# A kind of dictionary says which pre-activations become codes; encoding, decoding, error, saving and loading are
# shared. Ours keeps what is above a bound.

# %%
from clipattr.dictionaries.relu import above
from clipattr.dictionaries.sae import register_kind


@register_kind
class Bounded(ca.Dictionary):
    """Keeps what lies above one bound."""

    kind = "bounded"

    def __init__(self, *, bound, **core):
        super().__init__(**core)
        self.bound = bound

    def settings(self):
        return {"bound": self.bound}

    def select(self, pre):
        return above(pre, self.bound)


own = study.dictionary
acts = torch.from_numpy(study.activations[:256]).float()
parts = {"decoder": own.decoder, "encoder": own.encoder, "encoder_bias": own.encoder_bias, "bias": own.bias,
         "pre_bias": own.pre_bias, "gain": own.gain}  # fmt: skip
variance = float((acts - acts.mean(0)).square().sum())
rows = []
for bound in (0.0, 0.5, 1.0, 2.0):
    made = Bounded(bound=bound, **parts)
    codes = made.encode(acts)
    error = made.error(acts, codes)
    rows.append((bound, len(codes.values) / len(acts), float(error.square().sum()) / variance))
codes = own.encode(acts)
rows.append(("the study's", own.k, float(own.error(acts, codes).square().sum()) / variance))
pd.DataFrame(rows, columns=["bound", "active per picture", "variance unexplained"]).round(2)

# %% [markdown]
# A lower bound lets more latents in and yet explains less: these directions were trained for a rule that keeps the 16
# strongest. A dictionary and its rule belong together. To train one for a new rule, register an objective beside it.
#
# ## Somebody else's dictionary
# Published dictionaries load by name, are downloaded once, and know their site. `check_sae` measures one on our
# pictures beside what its card promises. Here the study's own dictionary goes out in SAELens's format and comes back,
# once as it is and once claimed to be of another block. Which of the two would you use?

# %%
import tempfile

print(ca.list_saes("cls-11")[["name", "site", "explained_variance", "l0"]].to_string(index=False))
promise = {"explained_variance": own.card["figures"]["explained_variance"], "l0": own.k}
with tempfile.TemporaryDirectory() as folder:
    ca.export_sae(own, folder)
    for site in ("image.-1.cls", "image.3.cls"):
        theirs = ca.load_sae(folder, site=site)
        check = ca.check_sae(theirs, study.model, study.images, promise=promise, pictures=64)
        explained = check.figures["explained_variance"]
        print(f"\n{site}: same weights {theirs.hash == own.hash}, explains {explained:.2f} of the variance, "
              f"{promise['explained_variance']:.2f} promised")  # fmt: skip
        print("\n".join(check.reasons[:2]) or "agrees")

# %% [markdown]
# The weights are the same, bit for bit; only the second claim about their place is wrong, and the check names the right
# one. `load_sae(name, images=...)` runs it before it hands the dictionary over.
#
# ## A vocabulary: what latents may be called
# Names come from a list. With a list that lacks the right word, the next best is taken, and only the *alignment*
# tells. Here the same latents, named from the study's words and from a list of feelings.

# %%
from clipattr.meaning.labels import label_latents

feelings = ca.Vocabulary.open(["joy", "anger", "boredom", "hunger"])
odd = label_latents(
    study.examples, study.evaluator_embeddings, feelings.embed(study.evaluator), study.empty_embedding, top=1
)
top = study.latents.sort_values("triage", ascending=False).head(5)["latent"].tolist()
pd.DataFrame(
    {
        "from the study's words": [study.latents.loc[j, "label"] for j in top],
        "alignment": [study.latents.loc[j, "alignment"] for j in top],
        "from feelings": [feelings.words[int(odd.word_top[j, 0])] for j in top],
        "alignment ": [float(odd.alignment_top[j, 0]) for j in top],
    },
    index=top,
).round(2)

# %% [markdown]
# A label is never empty, so read the alignment before the label. The documentation has one page for each kind of
# extension, also for checkpoint formats, kinds of findings and panels.
#
# ## Exercises
# 1. Write a target that is the *difference* of the similarities to two pictures. Is it linear?
#
#    <details><summary>Answer</summary>Yes: the two embeddings are constants, so it is <code>e @ (p − q)</code>.
#    <code>linear</code> returns <code>(p − q)[:, None]</code> and a zero.</details>
#
# 2. `halving` evaluates the model once per part. Which function of the splice would give first-order effects of all
#    parts at once?
#
#    <details><summary>Answer</summary><code>splice.slopes()</code>; times <code>splice.changes</code> that is
#    attribution patching.</details>
