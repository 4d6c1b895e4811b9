# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Panels: ask with the mouse, keep the answer
#
# Everything in the other notebooks can also be done with the mouse. A panel is a view of a study: it calls the same
# functions, and shows the code for its view. Run the notebook to use the panels; the stored outputs are
# *snapshots*, ordinary pictures and tables that stay when the kernel is gone.

# %%
import clipattr as ca
from clipattr_widgets import FindingsPanel, LatentPanel, MapPanel, PromptPanel, WorldPanel

study = ca.open_study("picture-world")
tractor = next(picture for picture in study.images if picture.label == "tractor")

# %% [markdown]
# ## 1. One picture, one prompt: what does the score rest on?
# Each row carries a part of the score, in points (cosine × 100), and the rows sum to it. Latents come first, the
# longest on top; bars to the left lower the score. *Bias alone* and *error* are what no latent carries. A
# bar that is far longer than those of all latents is cut; its number is correct. Two columns show a surprise: a
# latent with a long bar that *fits its label* well and *the prompt* badly.
#
# With the mouse: click a bar to see what its latent responds to, and where in the picture; flip its switch to take it
# out. By keyboard: Tab into the bars, then ↑ ↓ to move, Enter to choose, A to switch, + and − to scale, U to undo.

# %%
panel = ca.explore(study, picture=tractor.index, prompt="tractor")
panel

# %%
panel.snapshot()

# %% [markdown]
# ## 2. Take the background out
# Which of these latents have nothing to do with a tractor? Here we switch off every latent that the evaluator calls
# *meadow*. The panel could be clicked to do the same; from code the state is moved directly, and the panel follows. A
# panel computes beside the notebook, so that it never freezes: `settle` waits until all answers are in.

# %%
state = panel.state
for row in state.rows:
    if row["label"].startswith("meadow ·"):
        state.toggle(row["id"])
state.settle()

words = state.score_words()
print(
    f"similarity to “tractor”: {words['now']} points, without the meadow {words['after']} ({words['change']})"
)

# %% [markdown]
# A picture of something else on the same meadow shows whether the word itself rests on it. Changes to latents stay on
# while you go from picture to picture, so the comparison is one click on ▶ away.

# %%
state.reset()
state.compare_with(str(next(picture for picture in study.images if picture.label == "cow").index))
panel.snapshot()

# %% [markdown]
# ## 3. Rather than what?
# A similarity mixes why it is *this* with why it is a picture at all. "Rather than" asks for the difference between
# two prompts. And what does that look like in code? `panel.code()`, or *take away → code*:

# %%
state.compare_with("")
state.prompt, state.against = "tractor", "crane"
print(panel.code())

# %% [markdown]
# ## 4. One latent: what is it, and who uses it?
# Its strongest pictures show it at its best. *In bands* takes some from every quarter of its range, *by use* those in
# which it carries most of a prompt. The words below it are the evaluator's, with how well they fit; *prompts that rest
# on it* are found by taking the latent out of its own strongest pictures. A name that you give is kept in the study.

# %%
strongest = study.latents.query("aligned").sort_values("triage", ascending=False)["latent"].iloc[0]
latent = LatentPanel(study, latent=int(strongest), order="bands", heat=True)
latent.snapshot()

# %% [markdown]
# ## 5. One prompt, the whole collection: which senses does it have?
# Means over pictures labelled with the prompt (or, without labels, closest to it by the evaluator: never chosen by the
# score that is being questioned). Below, the families that carry most of it, each with the pictures in which they do.

# %%
prompt = PromptPanel(study, prompt="palm")
prompt.snapshot()

# %% [markdown]
# ## 6. Findings: judge them
# An audit as a table: sort it, filter it, look at the evidence, accept (A) or reject (R) with a note, take back (U).
# Each finding shows what its latents respond to, and the pictures it was measured on with their scores with and
# without the cause. Verdicts are kept in the study's folder beside the names you gave; `panel.state.accepted()` hands
# them on.

# %%
findings = ca.audit(study, ["tractor", "palm", "rabbit", "skateboard", "kite"], progress=False)
table = FindingsPanel(study, findings, least=3.0)
table.snapshot()

# %% [markdown]
# An accepted finding can be *repaired*: its direction is taken out of the prompt's text embedding, what is left is
# fitted again, and what that does is measured on held-out pictures. The worst group is where the shortcut used to
# mislead. The button under the table does the same.

# %%
table.state.repair()
table.state.settle()
table.state.repaired.outcome

# %% [markdown]
# ## 7. All latents at once
# Each point is a latent. Across: how well its examples fit the prompt, by the evaluator. Up: how much the prompt rests
# on it. What lies high up on the left is a surprise; latents in findings of the prompt are marked. In the notebook:
# click a point, draw a box or a loop to list what it holds, type a word or a picture's number to light points up.
# `chart.figure()` is the same as a plotly figure, for papers.

# %%
chart = MapPanel(study, findings=findings, prompt="tractor")
chart.snapshot()

# %% [markdown]
# ## 8. Cause and effect by hand
# The best test of an explanation is to change the picture. In the live world objects can be dragged, swapped and taken
# out, words written, watermarks added, and the score follows. For every cause the table lays side by side what truly
# follows when the scene is *rendered again* without it, what attribution *says* of the latents that go with it, and
# what is lost when the latents of its name are switched off. Where the columns agree, the explanation holds; where the
# last one is empty, the cause could not have been found by its name.

# %%
world = WorldPanel(study, picture=tractor.index, prompt="tractor")
world.state.put("context", "meadow")
world.state.put("word", "tractor")
world.state.settle()
world.snapshot()

# %% [markdown]
# ## 9. All of it together
# `ca.explore(study, findings=findings)` opens the panels as tabs: the latent, the prompt or the finding that you choose
# in one is what the others show. `panel.save("view.png")`, `.html` or `.csv` writes what is on the screen, and
# `findings.report("audit.html", {"the map": chart})` puts any panel into the report. For a colleague without a
# notebook, `clipattr serve picture-world` shows the same as a web page: on this machine alone, behind a token, and
# read-only unless `--write` is given.

# %%
ca.explore(study, picture=tractor.index, prompt="tractor", findings=findings)
