"""Arguments: what the command line understands, checked before anything is loaded.

Owns verbs, options, their help with an example each, and the exit codes. Ignores what verbs do (`main.py`).
Start at `parser`.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any, NoReturn

from clipattr import __version__

OK, ABOVE_LIMIT, BAD_INPUT, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130
EXITS = "exit: 0 fine, 1 above --fail-above, 2 bad input, 70 own fault, 130 interrupted"
DEMO_STUDY = "picture-world"
DEMO_REPORT = "clipattr-demo.html"
SHELLS = ("bash", "zsh", "tcsh")
FILES = ("FILE", "OUT", "FINDINGS", "PICTURE", "IMAGES")  # placeholders that a shell completes with files
FOLDERS = ("DIR", "STUDY", "STORE")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and where to read on, instead of the whole usage."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n  see {self.prog} --help\n")


class _Overview(argparse.RawDescriptionHelpFormatter):
    """Help of the program as a whole: the verbs without a line above them, so that all of it fits a screen."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        return text.partition("\n")[2] if isinstance(action, argparse._SubParsersAction) else text


class _Completion(argparse.Action):
    """Prints what a shell needs to complete verbs, options and file names, and stops."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> NoReturn:
        import shtab

        _tell_files(parser, shtab.FILE, shtab.DIRECTORY)
        print(shtab.complete(parser, shell=values))
        parser.exit(OK)


def _tell_files(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Mark every argument whose placeholder stands for a file or a folder, in all verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _tell_files(verb, file, folder)
        elif action.metavar in FILES:
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return number


def _points(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"points (cosine × 100) are 0 or more; got {text}")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1; got {text}")
    return number


def _setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as JSON where it is JSON (numbers, true, null), else as it stands.

    >>> _setting("k=64"), _setting("normalize=layer_norm")
    (('k', 64), ('normalize', 'layer_norm'))
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"settings look like k=64; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parser() -> argparse.ArgumentParser:
    """The parser of `clipattr VERB …`; what it returns has `verb`, the verb's name."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--json", metavar="OUT", help="write the result as JSON; - prints it, and nothing else, on stdout"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    main = _Parser(
        prog="clipattr",
        description="Find out what a CLIP model's scores rest on, and which of it nobody expected.",
        epilog=EXITS,
        formatter_class=_Overview,
    )
    main.add_argument("--version", action="version", version=f"clipattr {__version__}")
    main.add_argument(
        "--completion",
        metavar="SHELL",
        choices=SHELLS,
        action=_Completion,
        help="print what completes words in it: " + ", ".join(SHELLS),
    )
    verbs = main.add_subparsers(
        title="verbs (clipattr VERB --help has an example of each)",
        metavar="VERB [options]",
        dest="verb",
        required=True,
        parser_class=_Parser,
    )

    def verb(name: str, about: str, example: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example:\n  {example}\n\n{EXITS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )
        made.set_defaults(verb=name)
        return made

    demo = verb("demo", "audit the bundled model and write its report", "clipattr demo --out /tmp")
    demo.add_argument(
        "--out", metavar="DIR", default=".", help=f"folder for {DEMO_REPORT} (default: this one)"
    )

    study = verb(
        "study",
        "build a study: what audits, attributions and panels open",
        "clipattr study ViT-B-32:openai photos/ --out photos.study \\\n"
        "      --evaluator ViT-L-14:datacomp_xl_s13b_b90k --vocabulary words.txt --holdout 0.3",
    )
    study.add_argument(
        "model", metavar="MODEL", help="NAME:PRETRAINED, local-dir:PATH, hf-hub:ID, or a bundled name"
    )
    study.add_argument(
        "images", metavar="IMAGES", help="folder, table (.csv with a column path), .tar, or scenes:FILE"
    )
    study.add_argument(
        "--out", metavar="DIR", required=True, help="folder of the study; an interrupted one goes on"
    )
    study.add_argument("--vocabulary", metavar="FILE", default="general", help="words for labels: a text or .csv file, "
                       "general (default) or imagenet21k")  # fmt: skip
    study.add_argument(
        "--evaluator", metavar="MODEL", help="an independent CLIP that names what latents stand for"
    )
    study.add_argument(
        "--sae", metavar="FILE", help="a trained dictionary; default: one is trained on the pictures"
    )
    study.add_argument(
        "--site", help="where activations are read (default: the dictionary's site, else image.-1.cls)"
    )
    study.add_argument("--latents", metavar="N", type=_whole, help="of the dictionary to train")
    study.add_argument("--k", metavar="K", type=_whole, help="active latents of the dictionary to train")
    study.add_argument("--steps", metavar="N", type=_whole, help="of the dictionary's training")
    study.add_argument(
        "--examples", metavar="M", type=_whole, default=20, help="kept per latent (default: %(default)s)"
    )
    study.add_argument(
        "--holdout", metavar="SHARE", type=_share, help="of the pictures, to measure effects on"
    )
    study.add_argument(
        "--batch", metavar="N", type=_whole, default=64, help="pictures at a time (default: %(default)s)"
    )
    study.add_argument("--seed", type=int, default=0, help="of training and holding out (default: 0)")
    study.add_argument("--overwrite", action="store_true", help="replace another study in DIR")
    _spread(study)
    study.add_argument("--quiet", action="store_true", help="no progress bars")

    encode = verb(
        "encode",
        "keep a model's activations on disk; resumes",
        "clipattr encode ViT-B-32:openai photos/ --out photos.acts",
    )
    encode.add_argument(
        "model", metavar="MODEL", help="NAME:PRETRAINED, local-dir:PATH, hf-hub:ID, or a bundled name"
    )
    encode.add_argument(
        "images", metavar="IMAGES", help="folder, table (.csv with a column path), .tar, or scenes:FILE"
    )
    encode.add_argument(
        "--out", metavar="DIR", required=True, help="folder of the store; an interrupted one goes on"
    )
    encode.add_argument(
        "--site", action="append", help="where to read; several times for several (default: image.-1.cls)"
    )
    encode.add_argument(
        "--batch", metavar="N", type=_whole, default=64, help="pictures at a time (default: %(default)s)"
    )
    _spread(encode)
    encode.add_argument("--quiet", action="store_true", help="no progress bars")

    train = verb(
        "train",
        "train a dictionary on stored activations; resumes",
        "clipattr train photos.acts --out photos.sae --latents 30000 --k 64 --epochs 5",
    )
    train.add_argument("store", metavar="STORE", help="folder that `clipattr encode` wrote")
    train.add_argument("--out", metavar="DIR", required=True, help="folder of the dictionary")
    train.add_argument(
        "--latents", metavar="N", type=_whole, help="of the dictionary (without --k and this: chosen)"
    )
    train.add_argument("--k", metavar="K", type=_whole, help="active latents per activation")
    train.add_argument(
        "--kind", help="topk (default with --latents), nested, batchtopk, matryoshka, relu, gated or jumprelu"
    )
    train.add_argument(
        "--budget", metavar="N", type=float, help="multiply-adds for trying more than one recipe, e.g. 2e12"
    )
    train.add_argument("--site", help="of the store, where it has several")
    length = train.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", metavar="N", type=_whole, help="of training (default: 2000, 1200 for choosing)"
    )
    length.add_argument("--epochs", metavar="N", type=float, help="passes over the store, instead of steps")
    train.add_argument("--seed", type=int, default=0, help="of the first directions (default: 0)")
    train.add_argument("--quiet", action="store_true", help="no progress bars")

    convert = verb(
        "convert",
        "read another project's dictionary and save it as ours",
        "clipattr convert downloads/sae.pt --out photos.sae --set k=64 --site image.-1.cls",
    )
    convert.add_argument(
        "file",
        metavar="FILE",
        help="the weights, a folder with them, a name from `clipattr saes`, or hf-hub:ID",
    )
    convert.add_argument("--out", metavar="DIR", required=True, help="folder of the dictionary")
    convert.add_argument("--format", default="auto", help="its format, where the keys do not tell")
    convert.add_argument("--site", help="where its activations were read, e.g. image.-1.cls")
    convert.add_argument("--set", metavar="NAME=VALUE", type=_setting, action="append", default=[], help="what the "
                         "file does not say; an error names what is missing")  # fmt: skip

    saes = verb(
        "saes",
        "list published dictionaries, or check one on your images",
        "clipattr saes prisma:clip-b32-datacomp/cls-11 --images photos/",
    )
    saes.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="part of a name, model or site; with --images the dictionary to check",
    )
    saes.add_argument(
        "--images", metavar="IMAGES", help="load the dictionary and check it on some of these images"
    )
    saes.add_argument(
        "--model", metavar="MODEL", help="the model it belongs to (default: the one its publisher names)"
    )
    saes.add_argument("--site", help="where its activations are read, where neither file nor publisher says")
    saes.add_argument("--offline", action="store_true", help="use what was downloaded before, and no network")

    plan = verb(
        "plan",
        "estimate a study's time, disk, memory and network",
        "clipattr plan ViT-H-14:laion2b_s32b_b79k --pictures 10000000 --workers 16",
    )
    plan.add_argument(
        "model", metavar="MODEL", help="NAME:PRETRAINED, local-dir:PATH, hf-hub:ID, or a bundled name"
    )
    plan.add_argument(
        "--evaluator", metavar="MODEL", help="the CLIP that names latents (default: the model itself)"
    )
    plan.add_argument("--pictures", metavar="N", type=_whole, required=True, help="how many there will be")
    for name, number, about in (
        ("latents", 30_000, "of the dictionary"),
        ("k", 64, "active latents per picture"),
        ("examples", 20, "kept per latent"),
        ("words", 20_000, "of the vocabulary"),
        ("steps", 20_000, "of training, 4,096 activations each"),
        ("workers", 1, "like this machine"),
    ):
        plan.add_argument(
            f"--{name}", metavar="N", type=_whole, default=number, help=f"{about} (default: {number:,})"
        )

    audit = verb(
        "audit",
        "find unexpected reliances in a study",
        "clipattr audit photos.study --prompts classes.txt --html audit.html \\\n"
        "      --json audit.json --fail-above 5 --baseline accepted.json",
    )
    audit.add_argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
    audit.add_argument(
        "--prompts", metavar="FILE", help="one a line, or a table with a column word (default: vocabulary)"
    )
    audit.add_argument(
        "--prompt", metavar="TEXT", action="append", help="one prompt; can be given several times"
    )
    audit.add_argument("--csv", metavar="OUT", help="write the findings as a table, in points")
    audit.add_argument(
        "--html", metavar="OUT", help="write one self-contained page with pictures and evidence"
    )
    audit.add_argument(
        "--fail-above", metavar="POINTS", type=_points, help="exit with 1 if a causal effect is larger"
    )
    audit.add_argument("--baseline", metavar="FINDINGS", help="JSON of an earlier audit: only findings fail that are "
                       "new, or clearly larger than there")  # fmt: skip
    _spread(audit)

    models = verb("models", "list the models that load by name", "clipattr models --kind paper")
    models.add_argument("--kind", choices=("bundled", "paper", "open_clip"), help="only these")

    attribute = verb(
        "attribute",
        "explain one score of one picture by latents",
        "clipattr attribute picture-world 7 kite --against bat",
    )
    attribute.add_argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
    attribute.add_argument("picture", metavar="PICTURE", help="id or number in the study, or a file")
    attribute.add_argument("prompt", metavar="PROMPT", help="text the picture is compared with")
    attribute.add_argument(
        "--against", metavar="PROMPT", help="explain the difference to this prompt's score"
    )
    attribute.add_argument(
        "--method", metavar="NAME", help="default: exact ablation, or patching at deeper sites"
    )
    attribute.add_argument(
        "--top", metavar="N", type=_whole, default=12, help="latents shown (default: %(default)s)"
    )
    attribute.add_argument("--plot", metavar="OUT", help="write the bars as a picture (.png, .pdf, .svg)")

    faithfulness = verb(
        "faithfulness",
        "measure which attribution method to trust",
        "clipattr faithfulness picture-world --prompts classes.txt --plot methods.png",
    )
    faithfulness.add_argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
    faithfulness.add_argument(
        "--prompts", metavar="FILE", help="one a line, or a table with a column word (default: 8 labels)"
    )
    faithfulness.add_argument(
        "--prompt", metavar="TEXT", action="append", help="one prompt; can be given several times"
    )
    faithfulness.add_argument(
        "--pictures", metavar="N", type=_whole, default=64, help="to measure on, held-back ones first "
        "(default: %(default)s)"
    )  # fmt: skip
    faithfulness.add_argument("--plot", metavar="OUT", help="write the rank correlations as a picture")

    serve = verb(
        "serve",
        "show the panels of a study as a web page",
        "clipattr serve photos.study --findings audit.json",
    )
    serve.add_argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
    serve.add_argument("--findings", metavar="FINDINGS", help="JSON of an audit, listed from the start")
    serve.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine alone)"
    )
    serve.add_argument("--port", metavar="N", type=_whole, default=8866, help="(default: %(default)s)")
    serve.add_argument("--token", help="what visitors must know; default: one is drawn")
    serve.add_argument("--write", action="store_true", help="let visitors name latents and judge findings")

    site = verb(
        "site",
        "write a study as static pages that need no kernel and no network",
        "clipattr site photos.study --out pages --findings audit.json",
    )
    site.add_argument("study", metavar="STUDY", help="folder of a study, or a bundled name")
    site.add_argument(
        "--out", metavar="DIR", required=True, help="folder of the pages; new, empty, or an earlier site"
    )
    site.add_argument("--findings", metavar="FINDINGS", help="JSON of an audit; each finding gets a page")
    site.add_argument(
        "--latents",
        metavar="N",
        type=_whole,
        help="latents with a page, those to look at first (default: all)",
    )
    site.add_argument("--quiet", action="store_true", help="no progress")
    return main


def _spread(verb: argparse.ArgumentParser) -> None:
    """What says where a verb computes."""
    verb.add_argument(
        "--ray", metavar="N", type=_whole, help="spread over N Ray workers; needs clipattr[scale]"
    )
    verb.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a running Ray cluster; auto for this machine's (default: a new one)",
    )
    verb.add_argument(
        "--threads", metavar="N", type=_whole, help="of this process, or of each worker (there, default: 1); the same "
        "number gives the same bytes"
    )  # fmt: skip
