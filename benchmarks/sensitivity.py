"""Halves and doubles each deciding constant of an audit, and reports the change of recall and precision.

    python benchmarks/sensitivity.py --out OUT --photos PHOTOS                      # constants of the decision
    python benchmarks/sensitivity.py --out OUT --photos PHOTOS --again loses stays  # measures again for each value

OUT is what `worlds.py study` wrote; the worlds are those on which constants are chosen. Evidence is measured once and
judged with each changed `Settings`; effects of a constant before the decision show only with `--again`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
DECIDES = (
    "least_effect", "least_rise", "least_difference", "passes", "part_effect", "by_text", "kept", "least_confidence",
)  # fmt: skip
TIMES = {"halved": 0.5, "doubled": 2.0}
Said = tuple[str, tuple[int, ...]]  # a prompt and the latents of one of its findings


def gathered_of(world: Any, study: Any, settings: Any) -> list[Any]:
    """Measurements of an audit for every prompt of a world."""
    from clipattr.discovery.audit.expectations import Prompt
    from clipattr.discovery.audit.run import Ready, gathered

    ready = Ready(study, settings)
    return [gathered(ready, Prompt(prompt)) for prompt in world.prompts]


def findings_of(measured: Sequence[Any], settings: Any) -> list[Said]:
    """The findings that follow from evidence under some settings."""
    from clipattr.discovery.audit.decision import judge
    from clipattr.discovery.audit.run import held_of

    said = []
    for one in measured:
        unit = one.subject.unit
        again = tuple(judge(j.family, j.evidence, unit, settings) for j in one.judged)
        held, rise = held_of(replace(one, judged=again), settings)
        some = [j.family.latents for j in held]
        if rise is not None:
            some.append(rise.latents)
        said += [(one.subject.prompt.text, latents) for latents in some]
    return said


class Truth:
    """One world's judge, which remembers its verdicts."""

    def __init__(self, world: Any, study: Any, out: Path) -> None:
        from world_kit.auditing import learnt_of, truth_of
        from world_kit.judging import Judge

        contents = out / "pictures" / world.name / "contents.json"
        learnt = learnt_of(world, truth_of(world, out))
        self.judge = Judge(study, world, json.loads(contents.read_text(encoding="utf-8")), learnt)
        self._known: dict[Said, Any] = {}

    def verdict(self, said: Said) -> Any:
        """What redrawn pictures say of the latents of a prompt."""
        if said not in self._known:
            self._known[said] = self.judge.judge(*said)
        return self._known[said]

    def counts(self, said: Sequence[Said]) -> tuple[int, int, int, int]:
        """Plants found and learnt, findings right and made."""
        verdicts = [self.verdict(key) for key in said]
        found = {verdict.plant for verdict in verdicts if verdict.plant is not None}
        return len(found), len(self.judge.learnt), sum(v.right for v in verdicts), len(verdicts)


def measure(world: Any, out: Path, again: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
    """Counts of one world by constant and change, the unchanged settings under `as it is`."""
    from world_kit.studying import open_form

    from clipattr.discovery.audit.settings import Settings

    study, settings = open_form(out, world.name, "plain"), Settings()
    truth, found = Truth(world, study, out), gathered_of(world, study, Settings())
    counts = {"as it is": truth.counts(findings_of(found, settings))}
    for name in (*DECIDES, *again):
        for how, times in TIMES.items():
            changed = replace(
                settings, **{name: type(getattr(settings, name))(times * getattr(settings, name))}
            )
            evidence = gathered_of(world, study, changed) if name in again else found
            counts[f"{name}_{how}"] = truth.counts(findings_of(evidence, changed))
            print(world.name, name, how, counts[f"{name}_{how}"], flush=True)
    return counts


def parser_of_worlds(description: str | None) -> argparse.ArgumentParser:
    """Arguments of a benchmark on worlds that have a study."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument(
        "--only", nargs="*", help="worlds; default those whose names hold `choose` and have a study"
    )
    return parser


def worlds_to_choose_on(out: Path) -> list[str]:
    """Worlds with a plain study on which constants are chosen."""
    from world_kit.families import names

    ready = [name for name in names() if (out / "studies" / name / "plain" / "study.json").exists()]
    return [name for name in ready if "-choose-" in name]


def main() -> None:
    parser = parser_of_worlds(__doc__)
    parser.add_argument(
        "--again", nargs="*", default=[], help="constants for which everything is measured again"
    )
    arguments = parser.parse_args()
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from results import write_results
    from world_kit.families import open_world

    torch.set_num_threads(1)
    chosen = arguments.only or worlds_to_choose_on(arguments.out)
    pooled: dict[str, list[int]] = {}
    for name in chosen:
        for key, four in measure(open_world(name, arguments.photos), arguments.out, arguments.again).items():
            pooled[key] = [a + b for a, b in zip(pooled.get(key, [0] * 4), four, strict=True)]
    figures = {}
    for key, (found, learnt, right, made) in pooled.items():
        constant, _, how = key.rpartition("_")
        end = f"_{how}" if constant else ""
        figures[f"{constant or 'unchanged'}.recall{end}"] = found / max(1, learnt)
        figures[f"{constant or 'unchanged'}.precision{end}"] = right / max(1, made)
    rows = [{"change": key, "counts": counts} for key, counts in pooled.items()]
    write_results("sensitivity", figures, rows)
    for key, value in sorted(figures.items()):
        print(f"{key:44} {value:.3f}")


if __name__ == "__main__":
    main()
