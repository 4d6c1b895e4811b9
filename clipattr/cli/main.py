"""Command line: long jobs and continuous integration, without writing Python.

Owns the verbs, exit codes and what is printed where. Computes nothing: every verb calls the functions that notebooks
call. What can be said on it is in `arguments.py`. Results go to stdout (with `--json -`, JSON alone), progress and
remarks to stderr. Heavy imports happen inside verbs, so that `--help` is quick. Start at `main`; a verb is a function
in `VERBS`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipattr.cli.arguments import (
    ABOVE_LIMIT,
    BAD_INPUT,
    DEMO_REPORT,
    DEMO_STUDY,
    INTERNAL,
    INTERRUPTED,
    OK,
    parser,
)
from clipattr.cli.terminal import check_target, emit, print_table, say, show_warning, tell, write
from clipattr.cli.verbs import JOBS, engine_of
from clipattr.display.wording import NO_LABEL, kind_word, points, signed, span, visible
from clipattr.errors import ClipattrError, DataError
from clipattr.storage.documents import json_text
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings

LISTED = 40  # findings a table lists; the files have all


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default those of the process.

    Returns:
        The exit status: 0 fine, 1 findings above the limit, 2 bad input, 70 a fault of clipattr, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that cannot show a character is no reason to stop
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except BrokenPipeError:
        return _reader_gone()
    if arguments.debug:
        return _run(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted; a study goes on where it stopped when the same command is given again")
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except (ClipattrError, OSError) as error:
        say(f"error: {error}")
        return BAD_INPUT
    except Exception as error:
        say(
            f"a fault of clipattr: {type(error).__name__}: {error}. Run again with --debug and report what it shows"
        )
        return INTERNAL


def _reader_gone() -> int:
    """Whoever read our output has closed it: nothing more to say, and nothing wrong."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _run(arguments: argparse.Namespace) -> int:
    for name in ("json", "csv", "html", "plot"):
        check_target(getattr(arguments, name, None), name)
    status = VERBS[arguments.verb](arguments)
    sys.stdout.flush()  # here, where a closed pipe is still an answer and not a traceback
    return status


# verbs


def _demo(arguments: argparse.Namespace) -> int:
    from clipattr.discovery.audit.run import audit
    from clipattr.studies.study import open_study

    page = user_path(arguments.out) / DEMO_REPORT
    check_target(str(page), "out")
    study = open_study(DEMO_STUDY)
    say(f"auditing {study!r}")
    findings = audit(study)
    out = _human(arguments)
    _print_findings(findings, out)
    written = findings.report(page)
    emit(findings.to_json(), arguments.json)
    print(f"\nThe report with pictures and evidence: {written}", file=out)
    print("Next: make lab, and open notebooks/00_quickstart.ipynb", file=out)
    return OK


def _study(arguments: argparse.Namespace) -> int:
    from clipattr.studies.belonging import left_out
    from clipattr.studies.study import build_study

    with engine_of(arguments) as engine:
        study = build_study(
            arguments.model,
            arguments.images,
            path=arguments.out,
            vocabulary=arguments.vocabulary,
            evaluator=arguments.evaluator,
            site=arguments.site,
            dictionary=_dictionary(arguments.sae),
            n_latents=arguments.latents,
            k=arguments.k,
            examples=arguments.examples,
            holdout=arguments.holdout,
            training={"steps": arguments.steps} if arguments.steps else None,
            batch=arguments.batch,
            overwrite=arguments.overwrite,
            progress=not arguments.quiet,
            seed=arguments.seed,
            engine=engine,
        )
    made = study.manifest
    tell(left_out(made))
    summary = {
        "study": str(study.path),
        "hash": study.hash,
        "counts": made["counts"],
        "skipped": made["skipped"],
    }
    emit(json_text(summary, indent=2) + "\n", arguments.json)
    out = _human(arguments)
    print(repr(study), file=out)
    print(f"Next: clipattr audit {shlex.quote(str(study.path))} --html audit.html", file=out)
    return OK


def _audit(arguments: argparse.Namespace) -> int:
    from clipattr.cli.gate import over_limit
    from clipattr.discovery.audit.run import audit
    from clipattr.discovery.findings import Findings

    if arguments.baseline and arguments.fail_above is None:
        raise DataError(
            "--baseline goes with --fail-above POINTS: without a limit there is nothing to fail on."
        )
    # Read before the long work, so that a slip shows at once.
    baseline = Findings.from_json(arguments.baseline) if arguments.baseline else None
    prompts = _prompts(arguments)
    study = _opened(arguments.study)
    with engine_of(arguments) as engine:
        findings = audit(study, prompts, engine=engine)
    emit(findings.to_json(), arguments.json)
    if arguments.csv:
        write(findings.to_frame().to_csv(index=False), arguments.csv)
    if arguments.html:
        findings.report(arguments.html)
    out = _human(arguments)
    _print_findings(findings, out)
    if arguments.fail_above is None:
        return OK
    over = over_limit(findings, arguments.fail_above, baseline)
    known = " and not in the baseline" if baseline is not None else ""
    print(f"\n{len(over)} of them above {arguments.fail_above:g} points{known}.", file=out)
    for finding in over:
        print(f"  {visible(finding.prompt, 40)} rests on {visible(finding.label or NO_LABEL, 40)}: "
              f"{finding.causal_effect.points()} points", file=out)  # fmt: skip
    return ABOVE_LIMIT if over else OK


def _models(arguments: argparse.Namespace) -> int:
    from clipattr.models.loading import list_models

    frame = list_models()
    if arguments.kind:
        frame = frame[frame["kind"] == arguments.kind]
    emit(frame.to_json(orient="records", indent=2) + "\n", arguments.json)
    rows = [
        (f"{row.name}:{row.pretrained}" if row.pretrained else row.name, row.kind)
        for row in frame.itertuples(False)
    ]
    print_table(("MODEL", "kind"), rows, _human(arguments))
    return OK


def _attribute(arguments: argparse.Namespace) -> int:
    from clipattr.attribution import Contrast, attribute

    study = _opened(arguments.study)
    target = Contrast(arguments.prompt, arguments.against) if arguments.against else arguments.prompt
    found = attribute(study, _picture(study, arguments.picture), target, method=arguments.method)
    if arguments.plot:
        found.plot(arguments.top).savefig(arguments.plot)
    table = found.top(arguments.top)
    record = {
        "picture": found.pictures[0],
        "target": found.names[0],
        "unit": found.unit,
        "method": found.method,
        "site": found.site,
        "y": float(found.y[0, 0]),
        "bias": float(found.bias[0, 0]),
        "error": float(found.error[0, 0]),
        "gap": float(found.gap[0, 0]),
        "latents": json.loads(table.to_json(orient="records")),
    }
    emit(json_text(record, indent=2) + "\n", arguments.json)
    out = _human(arguments)
    print(found.explain() + "\n", file=out)
    scale, unit = (100, "points") if found.unit == "cosine" else (1, found.unit)
    rows = [
        (str(r.latent), visible(r.label or NO_LABEL, 40), f"{r.activation:.3f}", signed(r.attribution * scale, 2),
         f"{r.share * 100:.0f} %", points(r.alignment))
        for r in table.itertuples(index=False)
    ]  # fmt: skip
    print_table(
        ("latent", "label", "activation", unit, "share", "alignment"), rows, out, numbers=(0, 2, 3, 4, 5)
    )
    return OK


def _faithfulness(arguments: argparse.Namespace) -> int:
    from clipattr.attribution import VocabularyContrast
    from clipattr.attribution.faithfulness import faithfulness

    study = _opened(arguments.study)
    asked = _prompts(arguments)
    prompts = asked or list(study.vocabulary.words)[:8]
    held_back = study.holdout
    images = held_back if held_back is not None and len(held_back) else study.images
    # Evenly over the collection, which may be sorted by class.
    images = images[:: max(len(images) // arguments.pictures, 1)][: arguments.pictures]
    say(f"measuring on {len(images)} pictures and {len(prompts)} prompts")
    randomise = study.model.image_tower.last_matrix is not None
    found = faithfulness(study, images, VocabularyContrast(prompts, study.vocabulary), randomise=randomise)
    if arguments.plot:
        found.plot().savefig(arguments.plot)
    table = found.table
    record = {"unit": found.unit, "prompts": prompts, "rows": json.loads(table.to_json(orient="records"))}
    emit(json_text(record, indent=2) + "\n", arguments.json)
    out = _human(arguments)
    rows = [
        (r.measure.replace("_", " "), r.method, f"{r.mean:.3f}", f"{r.low:.3f} to {r.high:.3f}")
        for r in table.itertuples(index=False)
    ]
    print_table(("measure", "method", "mean", "95 % interval"), rows, out, numbers=(2, 3))
    less = (
        " Less is better for the randomised model: near 0 for a method that looks at the model." * randomise
    )
    print(f"\nHigher is better. Insertions and deletions are in raw {found.unit} units.{less}", file=out)
    return OK


def _serve(arguments: argparse.Namespace) -> int:
    from clipattr.cli.serve import serve

    serve(
        arguments.study, host=arguments.host, port=arguments.port, token=arguments.token, write=arguments.write,
        findings=arguments.findings, say=lambda text: print(text, file=_human(arguments), flush=True),
    )  # fmt: skip
    return OK


# what verbs share


def _opened(name: str) -> Any:
    """A study, with a word on what it was built without."""
    from clipattr.studies.belonging import left_out
    from clipattr.studies.study import open_study

    study = open_study(name)
    tell(left_out(study.manifest))
    return study


def _prompts(arguments: argparse.Namespace) -> list[str] | None:
    from clipattr.meaning import Vocabulary

    prompts = list(arguments.prompt or ())
    if arguments.prompts:
        listed = Vocabulary.open(arguments.prompts)
        tell(listed.notes)
        prompts += [word for word in listed.words if word not in prompts]
    return prompts or None


def _dictionary(path: str | None) -> Any:
    if path is None:
        return None
    from clipattr.dictionaries import load_sae

    return load_sae(path)


def _picture(study: Any, asked: str) -> Any:
    """A picture of the study by its id or number, or any other by its path."""
    if asked in study.images.ids:
        return study.images[asked]
    if asked.lstrip("-").isdigit():
        number = int(asked)
        if not -len(study.images) <= number < len(study.images):
            raise DataError(
                f"The study has no picture {number}; they are numbered 0 to {len(study.images) - 1}."
            )
        return study.images[number]
    if (path := user_path(asked)).is_file():
        return path
    raise DataError(
        f"There is no picture {visible(asked, 80)!r}: neither an id of the study (they look like "
        f"{study.images.ids[0]!r}), nor a number, nor a file."
    )


def _print_findings(findings: Findings, out: Any) -> None:
    audited = findings.about.get("prompts_audited")
    of = f" in {audited:,} prompts" if isinstance(audited, int) else ""
    print(
        f"{len(findings):,} unexpected reliances{of}, in points (cosine × 100), strongest causal effect first",
        file=out,
    )
    if not len(findings):
        return
    found = sorted(findings, key=lambda f: -f.causal_effect.value)
    columns = (
        "prompt",
        "rests on",
        "kind",
        "reliance",
        "alignment",
        "causal effect",
        "95 % interval",
        "sure",
    )
    print(file=out)
    print_table(columns, [_row(finding) for finding in found[:LISTED]], out, numbers=(3, 4, 5, 6, 7))
    if len(found) > LISTED:
        print(f"… and {len(found) - LISTED:,} more; the report, JSON and CSV have all.", file=out)


def _row(f: Finding) -> tuple[str, ...]:
    effect = f.causal_effect
    return (
        visible(f.prompt, 60),
        visible(f.label or NO_LABEL, 60),
        kind_word(f.kind),
        points(f.reliance.value),
        points(f.alignment),
        points(effect.value),
        span(effect.low, effect.high),
        f"{f.confidence * 100:.0f} %" if math.isfinite(f.confidence) else "–",
    )


def _human(arguments: argparse.Namespace) -> Any:
    """Where text for people goes: stdout, unless JSON has it."""
    return sys.stderr if arguments.json == "-" else sys.stdout


VERBS = {
    "demo": _demo,
    **JOBS,
    "study": _study,
    "audit": _audit,
    "models": _models,
    "attribute": _attribute,
    "faithfulness": _faithfulness,
    "serve": _serve,
}
