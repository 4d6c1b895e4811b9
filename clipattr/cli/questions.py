"""Questions: the verbs that analyse or show a study, and list models.

Owns `demo`, `audit`, `verify`, `models`, `attribute`, `faithfulness` and `serve`. They compute nothing
themselves: each calls the function that a notebook calls, and prints the result. The table of verbs is in `verbs.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipattr.cli.arguments import DEMO_REPORT, DEMO_STUDY, OK, picked
from clipattr.cli.jobs import engine_of
from clipattr.cli.releases import told_gate
from clipattr.cli.reports import stratified, write_reports
from clipattr.cli.terminal import check_target, emit, human, print_table, say, tell, write
from clipattr.display.wording import NO_LABEL, counted, kind_word, points, signed, span, visible
from clipattr.errors import DataError
from clipattr.storage.documents import json_text
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings

LISTED = 40  # findings in a printed table; files have all
DEMO_LISTED = 10
TOLD = 5  # prompts named in remarks
PARTS = ("model", "evaluator", "images")  # of a study that may be elsewhere now


def demo(arguments: argparse.Namespace) -> int:
    from clipattr.discovery.audit.run import audit
    from clipattr.reporting.names import striking
    from clipattr.studies.study import open_study

    page = user_path(arguments.out) / DEMO_REPORT
    check_target(str(page), "out")
    study = open_study(DEMO_STUDY)
    say(f"auditing {study!r}")
    findings = audit(study, progress=not arguments.quiet)
    out = human(arguments)
    _print_findings(findings, out, listed=DEMO_LISTED)
    written = findings.report(page)
    emit(findings.to_json(), arguments.json)
    print("\nThree of them:", file=out)
    for number, finding in enumerate(striking(findings), 1):
        effect = finding.causal_effect
        change = "rises" if (effect.value < 0) is not finding.by_writing else "falls"
        when = "written on pictures" if finding.by_writing else "ablated"
        print(
            f"  {number}. The score of “{visible(finding.prompt, 24)}” {change} by {abs(effect.value) * 100:.1f} "
            f"points when “{visible(finding.label or NO_LABEL, 24)}”\n     is {when} ({kind_word(finding.kind)}).",
            file=out,
        )
    print(f"\nThe report with pictures and evidence: {written}", file=out)
    print(
        "Your own model:  clipattr check MODEL IMAGES  (then study, audit; see docs/getting_started.md)",
        file=out,
    )
    print("The course:      make lab, and open notebooks/00_quickstart.ipynb", file=out)
    return OK


def audit(arguments: argparse.Namespace) -> int:
    from clipattr.discovery.audit.run import audit
    from clipattr.discovery.cautions import cautions
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.gate import gate
    from clipattr.discovery.spelling import with_suggestions
    from clipattr.studies.study import open_study

    if arguments.ocr and not arguments.pixels:
        raise DataError("--ocr goes with --pixels: text regions are tried only during verification.")
    for option in ("baseline", "previous", "markdown"):
        if getattr(arguments, option) and arguments.fail_above is None:
            raise DataError(
                f"--{option} goes with --fail-above POINTS: without a limit there is nothing to fail on."
            )
    # Read before the audit, so that a wrong file is reported at once.
    baseline = Findings.from_json(arguments.baseline) if arguments.baseline else None
    prompts = _prompts(arguments)
    study = _opened(arguments)
    previous = open_study(arguments.previous) if arguments.previous else None
    _tell_unknown(study, prompts)
    with engine_of(arguments) as engine:
        findings = audit(
            study,
            prompts,
            budget=arguments.budget,
            device=arguments.device,
            engine=engine,
            checkpoint=_checkpoint(arguments),
            progress=not arguments.quiet,
        )
    findings = with_suggestions(findings)
    if arguments.pixels and len(findings):
        from clipattr.discovery.pixels.settings import PixelSettings
        from clipattr.discovery.pixels.verify import verify as verified

        with engine_of(arguments) as engine:
            findings = verified(
                study,
                findings,
                settings=PixelSettings(text=arguments.ocr),
                device=arguments.device,
                engine=engine,
                checkpoint=_checkpoint(arguments),
                progress=not arguments.quiet,
            )
    findings = stratified(arguments, findings)
    decided = None
    if arguments.fail_above is not None:
        decided = gate(findings, arguments.fail_above, baseline, previous=previous)
    _write_findings(findings, arguments, {} if decided is None else {"gate": decided.to_dict()})
    write_reports(arguments, findings, decided)
    _forget(arguments)
    tell(cautions(findings.about))
    out = human(arguments)
    _print_findings(findings, out)
    if decided is None:
        return OK
    return told_gate(decided, out)


def _tell_unknown(study: Any, prompts: list[str] | None) -> None:
    """Say which prompts are neither a label nor a word of the study, before the work starts."""
    from clipattr.discovery.spelling import unknown_prompts

    unknown = unknown_prompts(study, prompts or ())
    for prompt, words in list(unknown.items())[:TOLD]:
        meant = f"; did you mean {' or '.join(visible(word, 40) for word in words)}?" if words else ""
        say(f"note: {visible(prompt, 60)!r} is neither a label nor a word of this study{meant}")
    if len(unknown) > TOLD:
        say(f"note: and {len(unknown) - TOLD:,} more prompts")


def verify(arguments: argparse.Namespace) -> int:
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.pixels.settings import PixelSettings
    from clipattr.discovery.pixels.verify import VERDICTS
    from clipattr.discovery.pixels.verify import verify as verified

    findings = Findings.from_json(arguments.findings)
    out = human(arguments)
    if not len(findings):
        _write_findings(findings, arguments)
        _forget(arguments)
        print("There is nothing to verify: the audit found nothing.", file=out)
        return OK
    with engine_of(arguments) as engine:
        checked = verified(
            _opened(arguments),
            findings,
            settings=PixelSettings(text=arguments.ocr),
            budget=arguments.budget,
            device=arguments.device,
            engine=engine,
            checkpoint=_checkpoint(arguments),
            progress=not arguments.quiet,
        )
    _write_findings(checked, arguments)
    _forget(arguments)
    told = [finding.evidence["pixels"] for finding in checked]
    rows = [
        (visible(finding.prompt, 24), visible(finding.label or NO_LABEL, 24), pixels["verdict"],
         pixels["edit"] or "", _of(pixels["removal"]), _of(pixels["transplant"]))
        for finding, pixels in zip(checked, told, strict=True)
    ]  # fmt: skip
    print_table(("PROMPT", "rests on", "in pixels", "edit", "removal", "transplant"), rows, out)
    counts = ", ".join(f"{sum(p['verdict'] == verdict for p in told)} {verdict}" for verdict in VERDICTS)
    print(f"\n{counts}; removal and transplant are in points, minus those of a control edit.", file=out)
    return OK


def _of(effect: dict[str, float] | None) -> str:
    return "" if effect is None else points(effect["value"])


def _checkpoint(arguments: argparse.Namespace) -> Path | None:
    """The folder beside the first output file where a stopped command goes on; None without such a file."""
    for name in ("json", "html", "csv"):
        target = getattr(arguments, name, None)
        if target and target != "-" and (Path(target).is_file() or not Path(target).exists()):
            return Path(f"{target}.checkpoint")
    return None


def _write_findings(
    findings: Findings, arguments: argparse.Namespace, more: dict[str, Any] | None = None
) -> None:
    """Write findings to the requested files, `more` added to the JSON."""
    from clipattr.reporting.prompts import csv_text

    text = findings.to_json()
    if more and arguments.json:
        text = json_text(json.loads(text) | more, indent=2) + "\n"
    emit(text, arguments.json)
    if arguments.csv:
        write(csv_text(findings), arguments.csv)
    if arguments.html:
        findings.report(arguments.html)


def _forget(arguments: argparse.Namespace) -> None:
    """Remove the checkpoint of a command whose files are all written."""
    if (done := _checkpoint(arguments)) is not None:
        shutil.rmtree(done, ignore_errors=True)


def models(arguments: argparse.Namespace) -> int:
    from clipattr.models.weights import list_models

    frame = list_models()
    if arguments.kind:
        frame = frame[frame["kind"] == arguments.kind]
    emit(frame.to_json(orient="records", indent=2) + "\n", arguments.json)
    rows = [
        (f"{row.name}:{row.pretrained}" if row.pretrained else row.name, row.kind)
        for row in frame.itertuples(False)
    ]
    print_table(("MODEL", "kind"), rows, human(arguments))
    return OK


def attribute(arguments: argparse.Namespace) -> int:
    from clipattr.attribution import Contrast, attribute

    study = _opened(arguments)
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
    out = human(arguments)
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


def faithfulness(arguments: argparse.Namespace) -> int:
    from clipattr.attribution import VocabularyContrast
    from clipattr.attribution.faithfulness import can_randomise, faithfulness

    study = _opened(arguments)
    asked = _prompts(arguments)
    prompts = asked or list(study.vocabulary.words)[:8]
    held_back = study.holdout
    images = held_back if held_back is not None and len(held_back) else study.images
    # Evenly spaced over the collection, which may be sorted by class.
    images = images[:: max(len(images) // arguments.pictures, 1)][: arguments.pictures]
    say(f"measuring on {counted(len(images), 'picture')} and {counted(len(prompts), 'prompt')}")
    randomise = can_randomise(study.model, study.site)
    found = faithfulness(study, images, VocabularyContrast(prompts, study.vocabulary), randomise=randomise)
    if arguments.plot:
        found.plot().savefig(arguments.plot)
    table = found.table
    record = {"unit": found.unit, "prompts": prompts, "rows": json.loads(table.to_json(orient="records"))}
    emit(json_text(record, indent=2) + "\n", arguments.json)
    out = human(arguments)
    rows = [
        (r.measure.replace("_", " "), r.method, f"{r.mean:.3f}", f"{r.low:.3f} to {r.high:.3f}")
        for r in table.itertuples(index=False)
    ]
    print_table(("measure", "method", "mean", "95 % interval"), rows, out, numbers=(2, 3))
    less = " For the randomised model lower is better: near 0 if a method depends on the model." * randomise
    print(f"\nHigher is better. Insertion and deletion are in raw {found.unit} units.{less}", file=out)
    return OK


def serve(arguments: argparse.Namespace) -> int:
    from clipattr.cli.serve import serve

    serve(
        *arguments.study,
        moved=picked(arguments, *PARTS),
        say=lambda text: print(text, file=human(arguments), flush=True),
        **picked(arguments, "host", "port", "token", "write", "findings"),
    )
    return OK


def _opened(arguments: argparse.Namespace) -> Any:
    """Open the study of a verb, and print what it was built without."""
    from clipattr.studies.belonging import left_out
    from clipattr.studies.study import open_study

    study = open_study(arguments.study, **picked(arguments, *PARTS))
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


def _picture(study: Any, asked: str) -> Any:
    """A picture of the study by id or number, or any other picture by path."""
    if asked in study.images.ids:
        return study.images[asked]
    if asked.lstrip("-").isdigit():
        number = int(asked)
        if not -len(study.images) <= number < len(study.images):
            raise DataError(
                f"The study has no picture {number}; pictures are numbered 0 to {len(study.images) - 1}."
            )
        return study.images[number]
    if (path := user_path(asked)).is_file():
        return path
    raise DataError(
        f"There is no picture {visible(asked, 80)!r}: neither an id of the study (they look like "
        f"{study.images.ids[0]!r}), nor a number, nor a file."
    )


def _print_findings(findings: Findings, out: Any, listed: int = LISTED) -> None:
    audited = findings.about.get("prompts_audited")
    of = f" in {counted(audited, 'prompt')}" if isinstance(audited, int) else ""
    found = counted(len(findings), "unexpected reliance")
    print(f"{found}{of}, in points (cosine × 100), strongest causal effect first", file=out)
    _print_verdicts(findings, out)
    if not len(findings):
        return
    ordered = sorted(findings, key=lambda f: -f.causal_effect.value)
    names = (
        "prompt",
        "rests on",
        "kind",
        "reliance",
        "alignment",
        "causal effect",
        "95 % interval",
        "confidence",
    )
    print(file=out)
    print_table(names, [_row(finding) for finding in ordered[:listed]], out, numbers=(3, 4, 5, 6, 7))
    if len(ordered) > listed:
        print(f"… and {len(ordered) - listed:,} more; the report, JSON and CSV have all.", file=out)


def _print_verdicts(findings: Findings, out: Any) -> None:
    """What is said of prompts without a finding: how many, and the first of those that cannot be judged."""
    silent = [verdict for verdict in findings.verdicts if verdict.outcome != "found"]
    unjudged = [verdict for verdict in silent if verdict.outcome == "cannot be judged"]
    if silent:
        quiet = len(silent) - len(unjudged)
        told = " The report, JSON and CSV give the smallest detectable effect of each." if quiet else ""
        counts = f"{counted(quiet, 'prompt')}: nothing found; {len(unjudged):,}: cannot be judged."
        print(counts + told, file=out)
    shown = silent if len(findings.verdicts) <= TOLD else unjudged
    for verdict in shown[:TOLD]:
        print(f"  {visible(verdict.prompt, 60)}: {visible(verdict.sentence(), 300)}", file=out)
    if len(shown) > TOLD:
        print(f"  and {len(shown) - TOLD:,} more", file=out)


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
