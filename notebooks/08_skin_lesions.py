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
# # A hidden shortcut in lesion classification
#
# A hospital trains a probe for melanoma on CLIP embeddings. Its melanomas were photographed beside a coloured patch,
# as clinics use them to calibrate colours; its nevi were not. The probe is excellent, in this hospital. The paper that
# this package follows ([arXiv 2505.20229](https://arxiv.org/abs/2505.20229)) warns of such probes: they can amplify
# hidden shortcuts. This notebook finds out why the probe is so good, and repairs it: audit, check, repair.
#
# As it stands, the pictures are **synthetic**: lesions drawn from a list of signs, with a rule that says which are
# melanomas. That is what allows us to check every claim by drawing a picture again without its patch. Set
# `CLIPATTR_ISIC` to a folder with pictures and a metadata file (ISIC archive, HAM10000), and the same cells run on
# real ones; only the checks by drawing fall away.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd

import clipattr as ca
from clipattr import plots

real = os.environ.get("CLIPATTR_ISIC")

# %% [markdown]
# ## The pictures
# The split is by lesion (and patient, where the file names patients): a lesion that was photographed twice is on one
# side. The audit needs a study of some of the pictures: which latents fire on which, and what they are called. The
# bundled one shows signs, artefacts and skins that meet at random.

# %%
medical = ["melanoma", "nevus", "asymmetric shape", "symmetric shape", "irregular border", "smooth border"]
medical += ["several colours", "one colour", "atypical network", "regular network"]
beside = ["ruler", "ink mark", "hair", "coloured patch", "gel bubbles", "vignette"]
beside += ["light skin", "medium skin", "dark skin"]

if real:
    # How files call the classes: HAM10000 by abbreviations, the ISIC archive by words. Other rows are left out.
    classes = {"mel": "melanoma", "melanoma": "melanoma", "nv": "nevus", "nevus": "nevus"}
    classes |= {"malignant": "malignant", "benign": "benign"}
    table = ca.open_table(real, labels=classes, group="sex")
    place = Path(os.environ.get("CLIPATTR_ISIC_STUDY", "out/isic-study"))
    if place.exists():
        study = ca.open_study(place)
    else:
        study = ca.build_study(
            os.environ.get("CLIPATTR_MODEL", "ViT-B-32:datacomp_xl_s13b_b90k"),
            table.images,
            path=place,
            vocabulary=[*medical, *beside],
            evaluator=os.environ.get("CLIPATTR_EVALUATOR", "MobileCLIP-S2:datacompdr"),
        )
    print(table, *table.notes, sep="\n")
else:
    study = ca.open_study("lesions")
print(study)

# %%
some = [study.images[row] for row in study.rows[:8]]
title = "lesions" if real else "synthetic lesions of the bundled study"
plots.gallery(
    [picture.load() for picture in some], [picture.label for picture in some], side=1.1, title=title
)

# %% [markdown]
# ## A probe that learnt in one hospital
# Of the hospital's melanomas 97 in 100 show a patch, of its nevi 3 in 100. We fit one probe there, and one for
# comparison where patches are spread evenly.

# %%
if real:
    probe = ca.fit_probe(study)
else:
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.robustness import material

    world = LesionWorld.open("lesions-evaluator")
    patch = material(study.model, world, "coloured patch", pool=1000, judged=300)
    hospital = patch.training(0.95, 800, seed=1)
    probe = ca.fit_probe(*hospital, model_hash=study.model.weights_hash)
    even = ca.fit_probe(*patch.training(0.0, 800, seed=1), model_hash=study.model.weights_hash)
    again = patch.training(0.95, 800, seed=2)
    print(
        f"in the same hospital: {np.mean(np.array(probe.predict(again[0])) == np.array(again[1])):.1%} right"
    )
probe

# %% [markdown]
# Where the patch is uninformative, the result differs. Each test lesion is there twice, with and without a patch.


# %%
def judged(classifiers):
    rows = {}
    for name, classifier in classifiers.items():
        found = patch.judge(classifier)
        rows[name] = {"accuracy": found.accuracy, "worst group": found.worst, "patch is worth": found.effect}
        rows[name] |= found.groups
    return pd.DataFrame(rows).T.round(2)


if not real:
    prompts = ca.Probe.of_prompts(study.model, ["melanoma", "nevus"])
    table = judged({"hospital's probe": probe, "probe without shortcut": even, "prompts": prompts})
    display(table)  # noqa: F821

# %% [markdown]
# *Patch is worth* is in diagnoses: at 1, a patch moves the decision as far as the difference between a typical
# melanoma and a typical nevus.
#
# ## The audit
# We know about the patch because we planted it. The audit does not: it sees the probe's weights, the study's latents,
# and asks for each class what the probe rests on that the class's own name does not explain.

# %%
audit = ca.audit_probe(study, probe=probe)
print(audit)
audit.disagreements(probe.names[0], 8)[["name", "probe_share", "prompt_share", "alignment"]].round(2)

# %%
findings = audit.findings()
pd.DataFrame(
    {
        "class": [f.prompt for f in findings],
        "rests on": [f.label for f in findings],
        "compared": [round(f.evidence["compared"]["value"], 2) for f in findings],
        "ablated": [round(f.evidence["ablated"]["value"], 2) for f in findings],
        "share": [round(f.share, 2) for f in findings],
        "confidence": [round(f.confidence, 2) for f in findings],
    }
)

# %% [markdown]
# *Compared* and *ablated* are in units of the gap between the class's own pictures and the others: how much higher the
# decision lies on pictures of one class with the concept than without, all else alike, and how far it falls when the
# latents that represent the concept are ablated. A finding needs both. An analyst reads this list and asks of every
# line: is that medicine? Signs such as an irregular border are. Objects beside the lesion are not. We keep the latter.
# Lines without a name are latents that follow no word: their pictures have to be looked at.

# %%
unwanted = [f for f in findings if f.label and f.label not in medical]
for finding in unwanted:
    amount = finding.evidence["compared"]["value"]
    print(f"{finding.prompt} rests on {finding.label}: it moves the decision by {amount:.0%} of the gap")

# %%
if unwanted:
    first = unwanted[0]
    shown = [study.images[name].load() for name in first.examples[:8]]
    where = "" if real else "synthetic: "
    chart = plots.gallery(shown, [""] * len(shown), side=1.1, title=f"{where}examples of “{first.label}”")
    display(chart)  # noqa: F821

# %% [markdown]
# ## Is it true?
# Here we can ask the world itself: take each part out of 300 pictures, draw them again, and see how the decision
# moves. Intervals are 95 %; from 0.1 diagnoses on we say that the probe relies on the part.

# %%
if not real:
    from clipattr_data.lesions import SHORTCUTS

    rows = []
    for part in SHORTCUTS:
        found = (
            patch if part == "coloured patch" else material(study.model, world, part, pool=2, judged=100)
        ).judge(probe)
        rows.append((part, found.effect, found.low, found.high, found.relied))
    columns = ["part (synthetic pictures)", "worth", "low", "high", "relied on"]
    display(pd.DataFrame(rows, columns=columns).round(2))  # noqa: F821

# %% [markdown]
# ## Repair
# Two ways. With nothing but the probe, the directions of what was found are projected out of its weights and its bias
# is fitted again: no picture is labelled again, no model trained. But such a probe has learnt hardly anything else.
# With the training pictures it can be fitted again on embeddings without these directions, so that it must use the
# lesion.

# %%
if unwanted:
    projected = ca.repair(study, unwanted, classifier=probe)
    print(projected.evaluate())
    blind_to = ca.directions_of(study, unwanted)
    refitted = ca.fit_probe(study, blind_to=blind_to) if real else ca.fit_probe(*hospital, blind_to=blind_to)
    if not real:
        sides = {
            "hospital's probe": probe,
            "weights projected": projected.classifier(),
            "fitted again, blind": refitted,
        }
        table = judged({**sides, "probe without shortcut": even})
        display(table)  # noqa: F821

# %% [markdown]
# Result: on pictures where the patch is uninformative, the hospital's probe is right on 40 of 100 in its worst
# group, melanomas without a patch. The audit names the patch first, and drawing the pictures again confirms it. What it
# names beside the patch, ink and the tone of the skin, weighs little: drawn again, each moves the decision by a tenth
# of a diagnosis, at the edge of what we call reliance. Projection removes most of the patch from the weights and
# leaves a poor threshold, which calls many nevi melanoma. Fitted again and blind to the findings, the probe is as
# good as one that was trained without the shortcut.
#
# An audit names what has a word and what its evaluator can see; what lies beside your own lesions may need words that
# are not in the list above. Latents that follow no word are listed without a name: an analyst has to look at
# their pictures.
#
# **Next:** [09_panels](09_panels.ipynb) does such audits with the mouse.
