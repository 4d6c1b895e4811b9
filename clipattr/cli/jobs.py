"""Jobs: the verbs that build a study or its parts, estimate its cost, and write it as pages.

Owns `study`, `encode`, `train`, `convert`, `saes`, `plan` and `site`. They compute nothing themselves: each calls the
function that a notebook calls, and prints the result. The table of verbs is in `verbs.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from clipattr.cli.arguments import BAD_INPUT, OK, picked
from clipattr.cli.terminal import answer, emit, human, print_table, say, tell
from clipattr.display.wording import counted, visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text
from clipattr.storage.paths import full_path, user_path


def study(arguments: argparse.Namespace) -> int:
    """Build a study from pictures."""
    from clipattr.dictionaries import load_sae
    from clipattr.studies.belonging import left_out
    from clipattr.studies.start import build_study

    with engine_of(arguments) as engine:
        made_study = build_study(
            arguments.model,
            arguments.images,
            path=arguments.out,
            dictionary=load_sae(arguments.sae) if arguments.sae else None,
            n_latents=arguments.latents,
            training={"steps": arguments.steps} if arguments.steps else None,
            named=not arguments.no_named,
            progress=not arguments.quiet,
            engine=engine,
            **picked(
                arguments, "vocabulary", "evaluator", "site", "k", "examples", "holdout", "batch", "seed"
            ),
            **picked(
                arguments, "overwrite", "store", "embeddings", "evaluator_embeddings", "text_embeddings"
            ),
        )
    made = made_study.manifest
    tell(left_out(made))
    summary = {
        "study": str(made_study.path),
        "hash": made_study.hash,
        "counts": made["counts"],
        "skipped": made["skipped"],
    }
    path = shlex.quote(str(made_study.path))
    return answer(arguments, summary, f"{made_study!r}\nNext: clipattr audit {path} --html audit.html")


def encode(arguments: argparse.Namespace) -> int:
    """Encode pictures into an activation store."""
    from clipattr.images.collection import Images
    from clipattr.models.loading import load_model
    from clipattr.models.places import default_site
    from clipattr.studies.encode import collect_activations

    model = load_model(arguments.model)
    sites = arguments.site or [str(default_site(model))]
    images = Images.open(arguments.images)
    with engine_of(arguments) as engine:
        store = collect_activations(
            model,
            images,
            sites,
            arguments.out,
            evaluator=arguments.evaluator,
            batch=arguments.batch,
            progress=not arguments.quiet,
            engine=engine,
        )
    tell((*images.notes, *store.notes))
    for name, reason in store.skipped[:5]:
        say(f"left out {visible(name, 80)}: {visible(reason, 120)}")
    record = {
        "store": str(store.path),
        "sites": sites,
        "activations": len(store),
        "width": store.width,
        "fingerprint": store.fingerprint,
        "skipped": store.skipped,
    }
    # The dictionary's suggested path is beside the store, even if the store is the current folder.
    beside = full_path(store.path) if store.path.name in ("", "..") else store.path
    where, out = shlex.quote(str(store.path)), shlex.quote(f"{beside}.sae")
    text = (
        f"{len(store):,} activations of {store.width} numbers at {', '.join(sites)}; "
        f"{counted(len(store.skipped), 'picture')} left out\n"
        f"Next: clipattr train {where} --out {out} --latents {8 * store.width} --k 32"
    )
    return answer(arguments, record, text)


def train(arguments: argparse.Namespace) -> int:
    """Train a dictionary on an activation store; checkpoints are in a folder beside it until it is finished."""
    from clipattr.dictionaries import train_sae
    from clipattr.storage.activations import ActivationStore

    out = full_path(arguments.out)
    given = {"kind": arguments.kind, "budget": arguments.budget}
    made = train_sae(
        ActivationStore.open(arguments.store, arguments.site),
        n_latents=arguments.latents,
        **picked(arguments, "k", "steps", "epochs", "seed"),
        **{name: value for name, value in given.items() if value is not None},
        checkpoint=out.with_name(out.name + ".checkpoint"),
        progress=not arguments.quiet,
    )
    if os.environ.get("RANK", "0") != "0":  # process 0 of torchrun writes
        return OK
    made.save(out)
    return answer(arguments, _described(made, out), _introduced(made, out))


def convert(arguments: argparse.Namespace) -> int:
    """Convert another project's file, or a published dictionary, to this package's format."""
    from clipattr.dictionaries import convert as convert_file

    given = {"site": arguments.site} if arguments.site else {}
    given |= dict(arguments.set)
    out = user_path(arguments.out)
    made = convert_file(arguments.file, out, arguments.format, **given)
    return answer(arguments, _described(made, out), _introduced(made, out))


def saes(arguments: argparse.Namespace) -> int:
    """List published dictionaries, or check one of them on images."""
    from clipattr.dictionaries import list_saes

    if arguments.images:
        return _check(arguments)
    frame = list_saes(arguments.text)
    emit(frame.to_json(orient="records", indent=2) + "\n", arguments.json)
    out = human(arguments)
    for model, some in frame.groupby("model", sort=False, dropna=False):
        rows = [
            (
                row.name,
                row.site or "–",
                _figure(row.explained_variance * 100, " %"),
                _figure(row.l0, ""),
            )
            for row in some.itertuples(index=False)
        ]
        print(f"\nOf {model}:", file=out)
        print_table(("NAME", "site", "variance explained", "L0"), rows, out, numbers=(2, 3))
    return OK


def _figure(value: float, unit: str) -> str:
    return "–" if value != value else f"{value:.4g}{unit}"


def _check(arguments: argparse.Namespace) -> int:
    from clipattr.dictionaries import check_sae, load_sae

    if not arguments.text:
        raise DataError("--images goes with a dictionary: a name from `clipattr saes`, hf-hub:ID, or a file.")
    made = load_sae(arguments.text, site=arguments.site, offline=arguments.offline)
    model = arguments.model or made.info.get("model")
    if model is None:
        raise DataError(f"{arguments.text} does not state which model it belongs to: give --model.")
    check = check_sae(made, model, arguments.images)
    record = {
        "dictionary": repr(made), "site": check.site, "model": check.model, "agrees": check.agrees,
        "figures": check.figures, "promise": check.promise, "alternatives": check.alternatives,
        "reasons": check.reasons,
    }  # fmt: skip
    emit(json_text(record, indent=2) + "\n", arguments.json)
    print(check, file=human(arguments))
    return OK if check.agrees else BAD_INPUT


def plan(arguments: argparse.Namespace) -> int:
    """Estimate the cost of a study and its audit from ten seconds of measurement."""
    from clipattr.models.loading import load_model
    from clipattr.studies.plan import plan_study

    if not arguments.quiet:
        say("measuring for about ten seconds")
    made = plan_study(
        load_model(arguments.model),
        load_model(arguments.evaluator) if arguments.evaluator else None,
        n_latents=arguments.latents,
        **picked(
            arguments,
            "pictures",
            "k",
            "examples",
            "vocabulary",
            "steps",
            "prompts",
            "workers",
            "batch",
            "site",
        ),
    )
    emit(json.dumps(made.to_dict(), indent=2) + "\n", arguments.json)
    out = human(arguments)
    columns = ("stage", "hours", "workers", "disk GB", "memory GB", "network GB")
    rows = [
        (row.stage, f"{row.hours:,.2f}", str(row.workers), f"{row.disk_gb:,.1f}", f"{row.memory_gb:,.1f}",
         f"{row.network_gb:,.1f}")
        for row in made.table.itertuples(index=False)
    ]  # fmt: skip
    total = ("all", f"{made.seconds / 3600:,.2f}", "", f"{made.disk / 1e9:,.1f}", "", "")
    print_table(columns, [*rows, total], out, numbers=(1, 2, 3, 4, 5))
    print("\nEstimates from this machine, for:", file=out)
    for assumption in made.assumptions:
        print(f"  {assumption}", file=out)
    return OK


def site(arguments: argparse.Namespace) -> int:
    """Write a study as a folder of static pages."""
    from clipattr.discovery.findings import Findings
    from clipattr.reporting.site import write_site
    from clipattr.studies.study import open_study

    opened = open_study(arguments.study, **picked(arguments, "model", "evaluator", "images"))
    findings = Findings.from_json(arguments.findings, opened) if arguments.findings else ()
    out = write_site(opened, arguments.out, findings, latents=arguments.latents, progress=not arguments.quiet)
    print(f"{out / 'index.html'}")
    return OK


def engine_of(arguments: argparse.Namespace) -> Any:
    """The engine of a verb: Ray on request, else this process."""
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    if arguments.ray or arguments.ray_address:
        from clipattr.execution.ray import Ray

        return Ray(arguments.ray, address=arguments.ray_address, threads=arguments.threads or 1)
    return contextlib.nullcontext()


def _described(made: Any, out: Path) -> dict[str, Any]:
    names = ("hash", "kind", "n_latents", "width", "k", "site", "info")
    described = {name.removeprefix("n_"): getattr(made, name) for name in names}
    return {"dictionary": str(out), **described}


def _introduced(made: Any, out: Path) -> str:
    fvu = made.info.get("fvu")
    unexplained = f", {fvu * 100:.1f} % of the variance unexplained" if isinstance(fvu, float) else ""
    return (
        f"{made!r}{unexplained}\nNext: clipattr study MODEL IMAGES --out STUDY --sae {shlex.quote(str(out))}"
    )
