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
# # Your own model and pictures: from a name to a finding
#
# The same calls that audit the bundled model audit yours. We go through all of them once, on a standard ViT-B/32 of
# OpenCLIP: first with its real weights if they are on this machine, else with random ones, and the first cell says
# which. Random weights show that every step works and that the numbers fit together. They cannot show a finding.

# %%
import tempfile
from pathlib import Path

import open_clip
import torch

import clipattr as ca
from clipattr import plots

NAME, TAG = "ViT-B-32", "datacomp_xl_s13b_b90k"


def is_here(name, tag):
    """Whether the weights lie in the cache of the hub; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    repository = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").strip("/")
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


if is_here(NAME, TAG):
    model = ca.load_model(NAME, pretrained=TAG)
    print(f"{NAME} with its weights {TAG}")
else:
    torch.manual_seed(0)
    model = ca.load_model(open_clip.model.CLIP(**open_clip.get_model_config(NAME)))
    print(f"{NAME} with RANDOM weights: every number below is about nothing")

# %% [markdown]
# A module that you built or trained yourself is loaded the same way, `ca.load_model(module)`, and so are a folder in
# OpenCLIP's format, `"local-dir:PATH"`, and a repository, `"hf-hub:ORG/REPO"`. What can be asked of this one?

# %%
print(
    f"{model.image_blocks} blocks of width {model.image_width}, {model.image_tokens} tokens, pictures of",
    model.image_size,
)
print("exact ablation at image.-1.cls without a backward pass:", model.tail_is_closed_form)

# %% [markdown]
# ## Pictures
# A folder with one subfolder per class, as photographs usually come. Here rendered scenes stand in for them. A table
# with columns `path`, `label`, `split` serves too, and so do webdataset shards and Hugging Face data sets.

# %%
from clipattr_data.scene import Scene

folder = Path(tempfile.mkdtemp())
for number in range(96):
    thing = ("kite", "bat", "camel", "eagle")[number % 4]
    (folder / "photos" / thing).mkdir(parents=True, exist_ok=True)
    Scene(main=thing, seed=number).picture().save(folder / "photos" / thing / f"{number:03d}.png")

pictures = ca.Images.open(folder / "photos")
plots.gallery([picture.load() for picture in pictures[::8]], [picture.label for picture in pictures[::8]])

# %% [markdown]
# ## One folder that holds everything
# `build_study` encodes the pictures, trains a dictionary unless one is given, and lets a second CLIP, the
# *evaluator*, name what the latents respond to. Take a large one from another data set. The bundled evaluator knows
# our scenes. After an interruption, the same call continues.
#
# `holdout` keeps a share of the pictures for measuring. The dictionary here is far too small for real use; the page
# *Choose your settings* of the documentation says what to take.

# %%
study = ca.build_study(
    model,
    pictures,
    path=folder / "photos.study",
    vocabulary={"animal": ["bat", "camel", "eagle"], "toy": ["kite"], "place": ["beach", "desert", "sky"]},
    evaluator="picture-world-evaluator",
    n_latents=64,
    k=8,
    holdout=0.25,
    training={"steps": 60},
    progress=False,
)
study

# %%
study.latents.sort_values("triage", ascending=False)[["label", "alignment", "clarity", "frequency"]].head(
    5
).round(2)

# %% [markdown]
# ## Asking
# Why does this picture get its score? *Error* is what the dictionary has not learnt. With random weights, or with a
# dictionary this small, it is large. In a study of your own, check it first.

# %%
picture = study.holdout[0]
found = ca.attribute(study, picture, ca.Contrast("a photo of a kite", "a photo of a bat"))
found.plot(6, title=f"{picture.label}: kite rather than bat")

# %% [markdown]
# Does the sum hold? The model's own score is read off the picture directly, and compared with the score in the
# attribution; then the strongest latent is taken out by hand.

# %%
pixels = model.prepare(picture.load())[None]
kite, bat = model.encode_text(["a photo of a kite", "a photo of a bat"])
direct = float((model.encode_image(pixels) @ (kite - bat))[0])
print("the same score, read directly:", abs(direct - float(found.y[0, 0])) < 1e-4)

strongest = found.top(1).iloc[0]
acts = ca.activations(model, pixels, study.site)
without = acts - strongest["activation"] * study.dictionary.decoder[int(strongest["latent"])]
after = float((ca.continue_from(model, study.site, without) @ (kite - bat))[0])
print("the bar is the fall:", abs((direct - after) - strongest["attribution"]) < 1e-3)

# %% [markdown]
# ## Auditing
# `ca.audit(study, prompts)` searches for unexpected reliances, as in `04_surprise`. On the command line
# the whole notebook is two lines:
#
# ```
# clipattr study ViT-B-32:datacomp_xl_s13b_b90k photos/ --out photos.study \
#     --evaluator ViT-L-14:datacomp_xl_s13b_b90k --holdout 0.3
# clipattr audit photos.study --prompts classes.txt --html audit.html
# ```
#
# ## Exercises
# 1. Leave out `evaluator=`. What does the warning say, and why is that study of little worth?
#
#    <details><summary>Answer</summary>The audited model then names its own latents. A latent that mixes two concepts
#    because the model confuses them looks clear and well named to that model.</details>
#
# 2. Open the study with another model: `ca.open_study(folder / "photos.study", model="picture-world-a")`. What
#    protects you?
#
#    <details><summary>Answer</summary>An error that names both models and the hashes of their weights. Directions of
#    one model's embedding mean nothing in another's.</details>
#
# 3. Ask for `ca.attribute(study, picture, "a kite", site="image.-1.patches")`. Why is it refused?
#
#    <details><summary>Answer</summary>Behind the last block only the class token goes on to the embedding. Whatever
#    stands at the patches there changes nothing, so every attribution would be exactly zero.</details>
