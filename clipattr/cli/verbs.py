"""Verbs: the table of all verbs: name, help, example, arguments, function.

Owns the table only. A new verb is a function in `jobs.py` or `questions.py` and an entry here. Start at `VERBS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from clipattr.cli import jobs, questions, releases, reproduction
from clipattr.cli.arguments import (
    BATCH,
    DEMO_REPORT,
    ENGINE,
    IMAGES,
    MODEL,
    MODEL_HELP,
    MOVED,
    PROMPT,
    STUDY,
    Argument,
    argument,
    out,
    points,
    port,
    prompts_from,
    setting,
    share,
    whole,
)
from clipattr.cli.reports import REPORTS


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        about: its line in the overview. example: a valid command.
        arguments: in the order of the help; arguments in an inner tuple exclude each other.
        run: function of the parsed arguments that returns the exit status.
    """

    name: str
    about: str
    example: str
    run: Callable[[argparse.Namespace], int]
    arguments: tuple[Argument | tuple[Argument, ...], ...]


# Options that a study and its plan share, so that both have one default.
VOCABULARY = argument(
    "--vocabulary",
    metavar="FILE",
    default="general",
    help="words for labels: a text or .csv file, general (default) or imagenet21k",
)
SITE = argument(
    "--site",
    help="where activations are read (default: the dictionary's site, else image.-1.cls if it is "
    "pooled, else image.embedding)",
)
OCR = argument(
    "--ocr", action="store_true", help="try regions of text too, with the detector of the extra ocr"
)
TRAINING = (
    argument(
        "--latents", metavar="N", type=whole, help="latents of the dictionary to train (default: chosen)"
    ),
    argument(
        "--k", metavar="K", type=whole, help="active latents of the dictionary to train; goes with --latents"
    ),
    argument("--steps", metavar="N", type=whole, help="steps of the dictionary's training"),
    argument(
        "--examples", metavar="M", type=whole, default=20, help="examples per latent (default: %(default)s)"
    ),
)
CSV = argument("--csv", metavar="OUT", help="write the findings as a table, in points")
HTML = argument("--html", metavar="OUT", help="write one self-contained page with pictures and evidence")

VERBS = (
    Verb(
        "demo",
        "audit the bundled model and write its report",
        "clipattr demo --out /tmp",
        questions.demo,
        (argument("--out", metavar="DIR", default=".", help=f"folder for {DEMO_REPORT} (default: this one)"),),
    ),
    Verb(
        "check",
        "check model, pictures and words in a minute",
        "clipattr check ViT-B-32:openai photos/ --evaluator ViT-L-14:datacomp_xl_s13b_b90k",
        releases.check,
        (
            argument("model", metavar="MODEL", help=MODEL_HELP + "; with --laws a study"),
            argument("images", metavar="IMAGES", nargs="?", help="folder, table (.csv with a column path), .tar, or "
                     "scenes:FILE"),
            VOCABULARY,
            argument("--evaluator", metavar="MODEL", help="an independent CLIP that names latents"),
            prompts_from("labels, else the vocabulary"),
            PROMPT,
            argument("--laws", action="store_true", help="MODEL is a study: audit it again after changes that must "
                     "not change its findings"),
        ),
    ),
    Verb(
        "study",
        "build a study: what audits, attributions and panels open",
        "clipattr study ViT-B-32:openai photos/ --out photos.study \\\n"
        "      --evaluator ViT-L-14:datacomp_xl_s13b_b90k --vocabulary words.txt --holdout 0.3",
        jobs.study,
        (
            argument("model", metavar="MODEL", nargs="?", help=MODEL_HELP + "; omit with --text-embeddings"),
            argument("images", metavar="IMAGES", nargs="?", help="folder, table (.csv with a column path), .tar, or "
                     "scenes:FILE; omit with --embeddings"),
            argument("--embeddings", metavar="FILE", help="embeddings of the pictures by MODEL: .npy, .npz, "
                     ".safetensors, .parquet, or clip-retrieval's folder"),
            argument("--evaluator-embeddings", metavar="FILE", help="embeddings of the same rows by the evaluator"),
            argument("--text-embeddings", metavar="FILE", help="instead of MODEL: a .npz with words and vectors"),
            out("study; an interrupted build continues"),
            VOCABULARY,
            argument("--evaluator", metavar="MODEL", help="an independent CLIP that names latents"),
            argument("--sae", metavar="FILE", help="a trained dictionary; default: one is made from the pictures"),
            argument("--no-named", action="store_true", help="make a dictionary without named directions for the "
                     "vocabulary's words"),
            argument("--store", metavar="DIR", help="store that `clipattr encode` wrote for these pictures"),
            SITE,
            *TRAINING,
            argument("--holdout", metavar="SHARE", type=share, help="fraction of pictures held out to measure effects"),
            BATCH,
            argument("--seed", type=int, default=0, help="seed of training and of the held-out pictures (default: 0)"),
            argument("--overwrite", action="store_true", help="replace another study in DIR"),
            *ENGINE,
        ),
    ),
    Verb(
        "encode",
        "store a model's activations on disk; resumes",
        "clipattr encode ViT-B-32:openai photos/ --out photos.acts",
        jobs.encode,
        (
            MODEL,
            IMAGES,
            out("store; an interrupted run continues"),
            argument("--site", action="append", help="where to read activations; may be repeated (default: "
                     "image.-1.cls)"),
            argument("--evaluator", metavar="MODEL", help="also store embeddings by this second CLIP, for `study`"),
            BATCH,
            *ENGINE,
        ),
    ),
    Verb(
        "train",
        "train a dictionary on stored activations; resumes",
        "clipattr train photos.acts --out photos.sae --latents 30000 --k 64 --epochs 5",
        jobs.train,
        (
            argument("store", metavar="STORE", help="folder that `clipattr encode` wrote"),
            out("dictionary"),
            argument("--latents", metavar="N", type=whole, help="latents of the dictionary (default without --k: "
                     "chosen)"),
            argument("--k", metavar="K", type=whole, help="active latents per activation"),
            argument("--kind", help="topk (default with --latents), nested, batchtopk, matryoshka, relu, gated or "
                     "jumprelu"),
            argument("--budget", metavar="N", type=float, help="multiply-adds for comparing several recipes, e.g. "
                     "2e12"),
            argument("--site", help="site of the store, if it has several"),
            (
                argument("--steps", metavar="N", type=whole, help="steps of training (default: 2000; 1200 for "
                     "choosing)"),
                argument("--epochs", metavar="N", type=float, help="passes over the store, instead of steps"),
            ),
            argument("--seed", type=int, default=0, help="seed of the initial directions (default: 0)"),
        ),
    ),
    Verb(
        "convert",
        "convert another project's dictionary to clipattr's",
        "clipattr convert downloads/sae.pt --out photos.sae --set k=64 --site image.-1.cls",
        jobs.convert,
        (
            argument("file", metavar="FILE", help="the weights, a folder with them, a name from `clipattr saes`, or "
                     "hf-hub:ID"),
            out("dictionary"),
            argument("--format", default="auto", help="its format, if the keys do not determine it"),
            argument("--site", help="site of its activations, e.g. image.-1.cls"),
            argument("--set", metavar="NAME=VALUE", type=setting, action="append", default=[], help="settings that "
                     "the file lacks; an error names them"),
        ),
    ),
    Verb(
        "saes",
        "list published dictionaries, or check one on your images",
        "clipattr saes prisma:clip-b32-datacomp/cls-11 --images photos/",
        jobs.saes,
        (
            argument("text", metavar="TEXT", nargs="?", help="part of a name, model or site; with --images the "
                     "dictionary to check"),
            argument("--images", metavar="IMAGES", help="load the dictionary and check it on some of these images"),
            argument("--model", metavar="MODEL", help="the model it belongs to (default: as its publisher states)"),
            argument("--site", help="its site, if neither file nor publisher states it"),
            argument("--offline", action="store_true", help="use downloaded files only, no network"),
        ),
    ),
    Verb(
        "plan",
        "estimate time, disk and memory of study and audit",
        "clipattr plan ViT-H-14:laion2b_s32b_b79k --pictures 10000000 --workers 16",
        jobs.plan,
        (
            MODEL,
            argument("--evaluator", metavar="MODEL", help="the CLIP that names latents (default: the model itself)"),
            argument("--pictures", metavar="N", type=whole, required=True, help="number of pictures"),
            argument("--prompts", metavar="N", type=whole, help="number of prompts to audit (default: every word)"),
            VOCABULARY,
            SITE,
            *TRAINING,
            BATCH,
            argument("--workers", metavar="N", type=whole, default=1, help="machines like this one (default: 1)"),
        ),
    ),
    Verb(
        "audit",
        "find unexpected reliances in a study",
        "clipattr audit photos.study --prompts classes.txt --html audit.html \\\n"
        "      --json audit.json --fail-above 5 --baseline accepted.json",
        questions.audit,
        (
            STUDY,
            prompts_from("labels of the pictures, else the vocabulary"),
            PROMPT,
            CSV,
            HTML,
            argument("--pixels", action="store_true", help="verify each finding by editing pictures; see `verify`"),
            OCR,
            argument("--fail-above", metavar="POINTS", type=points, help="exit with 1 if a causal effect is larger"),
            argument("--budget", metavar="FORWARDS", type=int, help="forward passes per prompt (default 60; 0: no "
                     "direct tests)"),
            argument("--device", metavar="DEVICE", help="device of the models, e.g. cuda (default: a GPU if there is "
                     "one)"),
            argument("--baseline", metavar="FINDINGS", help="JSON that `clipattr baseline` wrote: fail only on "
                     "findings that are new or clearly larger"),
            argument("--previous", metavar="STUDY", help="study of the released model on the same pictures: a "
                     "finding is new only if its pictures score higher than there"),
            argument("--markdown", metavar="OUT", help="write the decision for a pull request"),
            *REPORTS,
            *ENGINE,
            *MOVED,
        ),
    ),
    Verb(
        "baseline",
        "accept audits: later ones fail on what is new",
        "clipattr baseline accept audit.json --out accepted.json --note release-1.2",
        releases.baseline,
        (
            argument("action", choices=("accept",), help="accept: make a baseline of these audits"),
            argument("audits", metavar="FINDINGS", nargs="+", help="JSON of audits of one model, read by a person; "
                     "several with different dictionaries reduce false alarms"),
            argument("--out", metavar="FILE", required=True, help="the baseline, for `audit --baseline`"),
            argument("--note", default="", help="text stored in the baseline, e.g. why it was accepted"),
        ),
    ),
    Verb(
        "verify",
        "confirm findings by editing pictures",
        "clipattr verify photos.study audit.json --html checked.html --json checked.json",
        questions.verify,
        (
            STUDY,
            argument("findings", metavar="FINDINGS", help="JSON that `clipattr audit --json` wrote"),
            argument("--budget", metavar="N", type=whole, help="forward passes for all findings (default: no limit)"),
            OCR,
            argument("--device", metavar="DEVICE", help="device of the models, e.g. cuda (default: a GPU if there is "
                     "one)"),
            CSV,
            HTML,
            *ENGINE,
            *MOVED,
        ),
    ),
    Verb(
        "models",
        "list the models that load by name",
        "clipattr models --kind paper",
        questions.models,
        (argument("--kind", choices=("bundled", "paper", "open_clip"), help="list only this kind"),),
    ),
    Verb(
        "attribute",
        "explain one score of one picture by latents",
        "clipattr attribute picture-world 7 kite --against bat",
        questions.attribute,
        (
            STUDY,
            argument("picture", metavar="PICTURE", help="id or number in the study, or a file"),
            argument("prompt", metavar="PROMPT", help="text the picture is compared with"),
            argument("--against", metavar="PROMPT", help="explain the difference to this prompt's score"),
            argument("--method", metavar="NAME", help="attribution method; default: exact ablation, or patching at "
                     "deeper sites"),
            argument("--top", metavar="N", type=whole, default=12, help="number of latents shown (default: "
                     "%(default)s)"),
            argument("--plot", metavar="OUT", help="write the bars as a picture (.png, .pdf, .svg)"),
            *MOVED,
        ),
    ),
    Verb(
        "faithfulness",
        "measure which attribution method to trust",
        "clipattr faithfulness picture-world --prompts classes.txt --plot methods.png",
        questions.faithfulness,
        (
            STUDY,
            prompts_from("8 labels"),
            PROMPT,
            argument("--pictures", metavar="N", type=whole, default=64, help="number of pictures to measure on, "
                     "held-out ones first "
                     "(default: %(default)s)"),
            argument("--plot", metavar="OUT", help="write the rank correlations as a picture"),
            *MOVED,
        ),
    ),
    Verb(
        "reproduce",
        "test a published study's claims on your models",
        "clipattr reproduce paper --models models.txt --images imagenet/train --out run --plan",
        reproduction.reproduce,
        (
            argument("protocol", metavar="PROTOCOL", choices=("paper",), help="the study: paper, arXiv:2505.20229"),
            argument("--models", metavar="MODELS", required=True, help="references separated by commas, a file with "
                     "one per line, or paper for its eight variants"),
            argument("--images", metavar="IMAGES", required=True, help="folder, table, .tar, or the name of a bundled "
                     "study for its pictures"),
            argument("--table", metavar="FILE", help="metadata of these pictures with their labels, as archives "
                     "export it"),
            out("reproduction; an interrupted run continues"),
            argument("--evaluator", metavar="MODEL", help="the CLIP that names pictures (default: the study's own)"),
            argument("--vocabulary", metavar="FILE", help="words, as for `study` (default: the study's own)"),
            prompts_from("labels of the pictures, else the vocabulary"),
            argument("--lesions", metavar="DIR", help="skin lesions with a table (ISIC, HAM10000); lesions: the "
                     "bundled synthetic ones"),
            argument("--lesions-table", metavar="FILE", help="metadata of the lesions, if it is not in their folder"),
            argument("--strata", metavar="COLUMN", help="column of the lesions' table whose values are reported "
                     "separately"),
            argument("--truth", metavar="[MODEL=]FILE", action="append", default=[], help="planted reliances, JSON: "
                     "a list of prompt, cause, kind; repeated with MODEL="),
            argument("--only", metavar="NAME", action="append", help="one experiment; may be repeated"),
            argument("--quick", action="store_true", help="a quick form that takes a few minutes"),
            argument("--small", action="store_true", help="a form for a few thousand pictures"),
            argument("--set", metavar="NAME=VALUE", type=setting, action="append", default=[], help="one size, e.g. "
                     "n_latents=4096"),
            argument("--plan", action="store_true", help="estimate time and memory, and stop"),
            *ENGINE,
        ),
    ),
    Verb(
        "serve",
        "show the panels of one or more studies as a web page",
        "clipattr serve photos.study --findings audit.json",
        questions.serve,
        (
            argument("study", metavar="STUDY", nargs="+", help="folder of a study, or a bundled name; several can be "
                     "compared"),
            argument("--findings", metavar="FINDINGS", action="append", default=[], help="JSON of an audit to show; "
                     "repeated, one for each study in order"),
            argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine "
                     "only)"),
            argument("--port", metavar="N", type=port, default=8866, help="port to listen on (default: %(default)s)"),
            argument("--token", help="secret that visitors must give (default: a random one)"),
            *MOVED,
            argument("--write", action="store_true", help="let visitors name latents and judge findings"),
        ),
    ),
    Verb(
        "site",
        "write a study as static pages; no kernel, no network",
        "clipattr site photos.study --out pages --findings audit.json",
        jobs.site,
        (
            STUDY,
            out("pages; new, empty, or an earlier site"),
            argument("--findings", metavar="FINDINGS", help="JSON of an audit; each finding gets a page"),
            argument("--latents", metavar="N", type=whole, help="number of latents with a page, by triage (default: "
                     "all)"),
            *MOVED,
        ),
    ),
)  # fmt: skip

RUN = {verb.name: verb.run for verb in VERBS}
