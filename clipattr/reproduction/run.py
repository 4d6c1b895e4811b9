"""Run: all experiments of a reproduction in order, resumable, each with its table, JSON, figure and verdict.

Owns `reproduce`, the order of the experiments, and the files of a reproduction. Ignores what an experiment measures
(`experiments/`) and how the page looks (`page.py`). Start at `reproduce`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.std import tqdm

from clipattr.errors import StudyError
from clipattr.reproduction.deviations import deviations, versions
from clipattr.reproduction.experiment import UNDECIDED, Conclusion, Experiment
from clipattr.reproduction.figures import svg
from clipattr.reproduction.inputs import Inputs, file_name
from clipattr.reproduction.pieces import Pieces, cell, code_digest, plain
from clipattr.reproduction.sizes import FORMS, Sizes
from clipattr.reproduction.times import PAGE, PLAN
from clipattr.storage.documents import write_json, write_rows
from clipattr.storage.files import sweep, write_text, written
from clipattr.storage.locks import locked
from clipattr.storage.paths import user_path
from clipattr.studies.presets import paper
from clipattr.studies.remarks import remarks

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.execution.engine import Engine

PROTOCOLS = {"paper": paper}
SCHEMA = 1


@dataclass
class Run:
    """What experiments see: the inputs, the sizes, and the values of other experiments."""

    inputs: Inputs
    pieces: Pieces
    experiments: Mapping[str, Experiment]

    @property
    def sizes(self) -> Sizes:
        return self.inputs.sizes

    def value(self, name: str, unit: str) -> dict[str, Any]:
        """The values of one unit of an experiment, measured if they are not there."""
        inputs = self.inputs
        key: list[Any] = [name, unit, inputs.identity, self.sizes.to_dict(), inputs.protocol.source]
        # A unit that is about one model does not depend on the others.
        about = [unit.partition(" ")[0]] if unit.partition(" ")[0] in inputs.models else inputs.variants
        models = {variant: inputs.model(variant) for variant in about}
        key.append({variant: [model.weights_hash, model.facts] for variant, model in models.items()})
        key.append(inputs.judge.facts)

        def measure() -> dict[str, Any]:
            with inputs.times.of(f"{name} · {unit}"):
                return self.experiments[name].measure(self, unit)

        made: dict[str, Any] = self.pieces.of(f"{name}-{file_name(unit)}"[:80], key, measure)
        return made

    def remarks(self) -> list[str]:
        """What the first model's study left out or changed, such as pictures that cannot be read."""
        inputs, first = self.inputs, self.inputs.variants[0]
        key = ["remarks", inputs.identity, self.sizes.to_dict(), inputs.model(first).weights_hash]
        found: list[str] = self.pieces.of("remarks", key, lambda: remarks(inputs.study(first)))
        return found


@dataclass(frozen=True)
class Result:
    """One experiment's outcome. rows: its tidy table. units: what was measured. figure: SVG, None without one."""

    experiment: Experiment
    conclusion: Conclusion
    rows: tuple[dict[str, Any], ...]
    units: tuple[str, ...]
    figure: str | None


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction.

    Attributes:
        folder: with index.html and, in `experiments`, CSV, JSON and SVG of each experiment.
        results: one per experiment, in the order of the page.
        deviations: from the published protocol, one sentence each.

    >>> import clipattr as ca
    >>> ca.Reproduction(Path("run"), (), ()).page.name
    'index.html'
    """

    folder: Path
    results: tuple[Result, ...]
    deviations: tuple[str, ...]

    @property
    def page(self) -> Path:
        """The HTML page that joins everything."""
        return self.folder / "index.html"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per experiment: experiment, of the paper, claim, outcome, sentence."""
        import pandas as pd

        told = [(r.experiment, r.conclusion) for r in self.results]
        rows = [(e.name, e.of_paper, e.claim, c.outcome, c.sentence) for e, c in told]
        return pd.DataFrame(rows, columns=["experiment", "of the paper", "claim", "outcome", "sentence"])

    def __getitem__(self, name: str) -> Result:
        """The result of an experiment; KeyError names those that exist."""
        for result in self.results:
            if result.experiment.name == name:
                return result
        raise KeyError(
            f"no experiment {name!r}; there are {', '.join(r.experiment.name for r in self.results)}"
        )

    def __repr__(self) -> str:
        outcomes = [r.conclusion.outcome for r in self.results]
        told = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
        return f"<Reproduction in {str(self.folder)!r}: {told}>"


def reproduce(
    protocol: str = "paper",
    *,
    models: Any,
    images: Any,
    out: str | os.PathLike[str],
    names: Mapping[str, str] | None = None,
    evaluator: Any = None,
    vocabulary: Any = None,
    prompts: Iterable[str] | None = None,
    lesions: Any = None,
    truth: Any = None,
    form: str | Sizes = "paper",
    sizes: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
    plan: bool = False,
    engine: Engine | None = None,
    progress: bool = True,
    command: str | None = None,
) -> Any:
    """Test every claim of a published study on models and pictures of your own.

    Work is cached by the hashes of what it reads, of its sizes and of this package's code. Interrupted at any moment,
    the same call continues, and ends with the same bytes; `times.json` is the only file that differs between runs.

    Args:
        protocol: "paper", arXiv:2505.20229.
        models: a list of references that `load_model` takes, a mapping from name to model, or a file with one reference
            a line; "paper" stands for its eight variants.
        images: anything `Images.open` takes, a `Table` of `open_table`, or the name of a bundled study. Labels make
            classes, and prompts.
        out: folder of the reproduction; created if missing.
        names: word of each label that is a code; ImageNet's numbers and HAM10000's diagnoses are known.
        evaluator, vocabulary: default the protocol's own.
        prompts: to audit; default the labels of the pictures, else the vocabulary.
        lesions: a folder with a table of lesions, a `Table` with the classes malignant and benign, or "lesions", the
            bundled synthetic ones; None leaves the lesion study out. The table's groups are strata.
        truth: planted reliances, if known: {"prompt", "cause", "kind"} each, in a list for all models or by model.
            Bundled models bring their own.
        form: "paper", "small" (a few thousand pictures), "quick" (minutes), or `Sizes`. sizes: single changes.
        only: names of experiments; default all.
        plan: estimate time and memory, and measure nothing but the speed of this machine. The estimate is stored as
            `plan.json`; a run in the same folder stores what it took beside it.
        engine: where pictures are encoded and prompts are audited, e.g. `clipattr.Ray(workers=8)`.
        progress: show bars.
        command: shown on the page; default this call.

    Returns:
        a `Reproduction`; with `plan`, a `ReproductionPlan`.

    Raises:
        StudyError: an unknown protocol, form, size or experiment; another process works in `out`. Errors of what is
            opened.

    Source: Dreyer et al. 2025, arXiv:2505.20229.

    >>> import tempfile, clipattr as ca
    >>> sizes = {"pictures": 80, "n_latents": 16, "epochs": 1, "faithful_pictures": 4, "faithful_masks": 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = ca.reproduce(
    ...         models=["picture-world-a"], images="picture-world", evaluator="picture-world-evaluator",
    ...         vocabulary="picture-world", form="quick", sizes=sizes, only=["faithfulness"], progress=False, out=folder
    ...     )
    ...     made.page.exists(), made["faithfulness"].rows[0]["method"]
    (True, 'patching')
    """
    from clipattr.reproduction.experiments import EXPERIMENTS

    if protocol not in PROTOCOLS:
        raise StudyError(f"There is no protocol {protocol!r}; there is {', '.join(PROTOCOLS)}.")
    if isinstance(form, str) and form not in FORMS:
        raise StudyError(f"There is no form {form!r}; there are {', '.join(FORMS)}.")
    chosen = (FORMS[form] if isinstance(form, str) else form).changed(sizes or {})
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if only is not None and (unknown := sorted(set(only) - set(known))):
        raise StudyError(f"There is no experiment {unknown[0]!r}; there are {', '.join(known)}.")
    folder = user_path(out)
    inputs = Inputs.open(
        PROTOCOLS[protocol],
        chosen,
        folder / "studies",
        models=models,
        images=images,
        names=names,
        evaluator=evaluator,
        vocabulary=vocabulary,
        prompts=prompts,
        lesions=lesions,
        truth=truth,
        engine=engine,
        progress=progress,
    )
    run = Run(inputs, Pieces(folder / "pieces"), known)
    wanted = [experiment for experiment in EXPERIMENTS if only is None or experiment.name in only]
    if plan:
        from clipattr.reproduction.plan import planned

        estimate = planned(run, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, plain(estimate.to_dict()))
        return estimate
    told = command or _call(protocol, inputs, form, sizes, only)
    with locked(folder / ".lock", f"reproducing in {str(folder)!r}", StudyError):
        sweep(folder / "pieces")
        (folder / "experiments").mkdir(parents=True, exist_ok=True)
        results = tuple(_result(run, experiment, folder / "experiments") for experiment in wanted)
        made = Reproduction(folder, results, tuple(deviations(run, results)))
        with inputs.times.of(PAGE):
            _finish(run, made, told)
        inputs.times.note(folder)
    return made


def _result(run: Run, experiment: Experiment, folder: Path) -> Result:
    """Measure an experiment unit by unit, and write its table, JSON and figure."""
    units = tuple(experiment.units(run))
    left = run.inputs.times.update(folder.parent, experiment.name) if units else None
    if left is not None and run.inputs.progress:
        seconds = run.inputs.times.updated[experiment.name]
        told = f"about {tqdm.format_interval(seconds)}, and {tqdm.format_interval(left)} until the end"
        print(f"{experiment.name}: {told}", file=sys.stderr, flush=True)
    values = {unit: run.value(experiment.name, unit) for unit in units}
    with run.inputs.times.of(PAGE):
        result = result_of(experiment, values)
        _write(result, values, folder)
    run.inputs.times.note(folder.parent)
    return result


def result_of(experiment: Experiment, values: Mapping[str, Any]) -> Result:
    """Table, verdict and figure from the values of all units."""
    if not values:
        return Result(experiment, Conclusion(UNDECIDED, f"Not measured: {experiment.lacking}."), (), (), None)
    rows = tuple(plain(row) for row in experiment.rows(values))
    chart = experiment.draw(values)
    figure = None if chart is None else svg(chart)
    return Result(experiment, experiment.conclude(values), rows, tuple(values), figure)


def _write(result: Result, values: Mapping[str, Any], folder: Path) -> None:
    name, conclusion = result.experiment.name, result.conclusion
    columns = list(dict.fromkeys(column for row in result.rows for column in row))
    with written(folder / f"{name}.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        write_rows(file, [columns, *([cell(row.get(column)) for column in columns] for row in result.rows)])
    content = {
        "schema": SCHEMA,
        "experiment": name,
        "claim": result.experiment.claim,
        "of_paper": result.experiment.of_paper,
        **conclusion.to_dict(),
        "units": list(result.units),
        "rows": list(result.rows),
        "values": values,
    }
    write_json(folder / f"{name}.json", plain(content))
    if result.figure is not None:
        write_text(folder / f"{name}.svg", result.figure)


def _finish(run: Run, made: Reproduction, command: str) -> None:
    """The list of inputs with their hashes, and the page."""
    from clipattr.reproduction.page import page

    inputs = run.inputs
    built = any(result.units and result.experiment.studies for result in made.results)
    left_out = run.remarks() if built else inputs.images.notes
    about = {
        "schema": SCHEMA,
        "protocol": inputs.protocol.source,
        "command": command,
        "versions": versions(),
        "code": code_digest(),
        "models": {name: inputs.model(name).weights_hash for name in inputs.variants},
        "inputs": inputs.identity,
        "pictures": len(inputs.images),
        "prompts": inputs.prompts,
        "notes": [*inputs.notes, *left_out],
        "sizes": run.sizes.to_dict(),
        "deviations": list(made.deviations),
        "claims": {result.experiment.name: result.conclusion.to_dict() for result in made.results},
    }
    write_json(made.folder / "about.json", plain(about))
    write_text(made.page, page(made, about))


def _call(
    protocol: str,
    inputs: Inputs,
    form: str | Sizes,
    sizes: Mapping[str, Any] | None,
    only: Sequence[str] | None,
) -> str:
    options = [f"models={inputs.variants!r}", "images=…", "out=…"]
    if inputs.lesions:
        options.append(f"lesions={inputs.lesions!r}" if isinstance(inputs.lesions, str) else "lesions=…")
    options += [f"form={form!r}"] if isinstance(form, str) and form != "paper" else []
    options += [f"sizes={dict(sizes)!r}"] if sizes else []
    options += [f"only={list(only)!r}"] if only else []
    return f"ca.reproduce({protocol!r}, {', '.join(options)})"
