"""Forward passes of an audit: the time that the model waits for pictures, at ViT-B/32 shape with random weights.

    python benchmarks/audit_forwards.py [--quick] [--photos FOLDER]

Photographs, or JPEGs of 500 × 375 pixels drawn from noise, get text inserted and are occluded as for a prompt, one
prompt after another. Busy is the time in which an image tower runs; idle is the rest: decoding, altering, resizing,
drawing, codes.
Wall time with one thread for the towers, and processor time of the thread that runs them, which other programs on the
machine do not lengthen.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from audit_scale import Texts, synthetic
from PIL import Image
from results import write_results

import clipattr as ca
from clipattr.dictionaries import random_sae
from clipattr.discovery import encoded
from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.occlusion import PRICE, look
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.text_insertion import Insertion
from clipattr.images.collection import Images
from clipattr.images.sources import FileSource
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.sites import Site, continue_from

PICTURES, PROMPTS, WORDS = 96, 2, 12
AUDITED = 40  # prompts of the whole audit, in a random order: common words have more candidates


class Busy:
    """Counts the seconds spent in functions that run an image tower."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds, self.clock = 0.0, clock

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def run(*given: Any, **options: Any) -> Any:
            begun = self.clock()
            try:
                return function(*given, **options)
            finally:
                self.seconds += self.clock() - begun

        return run


def pictures_in(folder: Path, photos: Path | None, n: int) -> list[str]:
    """Photographs, or smooth noise of 500 × 375 pixels as JPEG."""
    if photos is not None:
        found = sorted(str(file) for file in photos.rglob("*.jpg"))
        return found[:: max(1, len(found) // n)][:n]
    random, files = np.random.default_rng(0), []
    for number in range(n):
        noise = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        files.append(str(folder / f"{number:04d}.jpg"))
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def study_of(files: list[str], model: Any, evaluator: Any) -> Any:
    """The parts of a study that an audit reads; activations are random, pictures and towers real."""
    n, width = len(files), 768
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    words = list(Vocabulary.open("general").words[:WORDS])
    acts, seen = torch.randn(n, width, generator=generator), unit(n, 512)
    dictionary = random_sae(acts, n_latents=4096, k=32)
    vocabulary = Vocabulary.open(words)
    return SimpleNamespace(
        site=Site("image.-1.cls"), model=model, evaluator=evaluator, manifest={}, vocabulary=vocabulary,
        vocabulary_embeddings=unit(WORDS, 512), empty_embedding=torch.zeros(512),
        images=Images.open(files), activations=acts.half().numpy(), evaluator_embeddings=seen.half().numpy(),
        repeats=np.zeros(n, dtype=bool), had=np.ones(n, dtype=bool), codes=dictionary.encode(acts),
        dictionary=dictionary, examples=SimpleNamespace(counts=torch.ones(4096)),
        seen=lambda rows: seen[torch.from_numpy(np.asarray(rows))],
    )  # fmt: skip


def spent(base: Base, clock: Callable[[], float], busy: Busy, prompts: int) -> tuple[float, float]:
    """Seconds of the forward-bound part of some prompts, and those of them in which a tower ran."""
    insertion = Insertion(base)
    insertion.pictures, insertion.bare  # noqa: B018  made once for a study
    words = base.study.vocabulary.words
    subjects = [Subject.of(base, Prompt(word)) for word in words[:prompts]]
    begun, busy.clock, busy.seconds = clock(), clock, 0.0
    for number, subject in enumerate(subjects):
        first = base.settings.first
        insertion.with_text(subject.prompt.text, 0, first)
        insertion.with_text(subject.prompt.text, first)
        own = torch.ones(len(base.finding), dtype=torch.bool)
        asked = replace(subject, finding=replace(subject.finding, own=own))
        clearly = torch.arange(len(own)).roll(7 * number).float()  # other pictures each time
        assert look(base, asked, own, clearly, base.settings.occluded) is not None
    return clock() - begun, busy.seconds


def whole_study(files: list[str], model: Any, evaluator: Any, prompts: int, folder: str) -> Any:
    """A synthetic study of pictures in files: towers and pictures are real, texts and embeddings made."""
    study = synthetic(prompts, 2_000, 2_000, 300, 32, folder)
    texts = study.model.table  # (words, width), each a direction and some of its companion's
    site = Site("image.-1.cls")
    with torch.no_grad():
        table = torch.nn.functional.normalize(
            continue_from(model, site, texts * texts.shape[1] ** 0.5), dim=1
        )
    model.encode_text = Texts(study.vocabulary.words, table.float()).encode_text
    evaluator.encode_text = study.evaluator.encode_text
    names, acts = study.images.ids, torch.from_numpy(np.asarray(study.activations, dtype=np.float32))
    dictionary = random_sae(acts, n_latents=2_000, k=32)
    places = [Path(files[n % len(files)]) for n in range(len(names))]
    vars(study).update({
        "site": site, "model": model, "evaluator": evaluator, "hash": "synthetic",
        "manifest": {"model": {}, "evaluator": {}}, "dictionary": dictionary, "codes": dictionary.encode(acts),
        "images": Images(FileSource(places), names, study.images.columns),
        "had": np.ones(len(names), dtype=bool),
    })  # fmt: skip
    return study


def estimated(study: Any, prompts: int) -> dict[str, Any]:
    """One whole audit: seconds in all, and what progress had said after a tenth of the prompts."""
    said = io.StringIO()
    begun = time.monotonic()
    with contextlib.redirect_stderr(said):
        asked = np.random.default_rng(0).permutation(study.vocabulary.words[5 : 5 + prompts]).tolist()
        findings = ca.audit(study, asked)
    whole = time.monotonic() - begun
    gone, left = (sum(60**n * int(part) for n, part in enumerate(reversed(told.split(":"))))
                  for told in re.findall(r"([\d:]+) gone, ([\d:]+) left", said.getvalue())[0])  # fmt: skip
    return {
        "prompts": prompts, "seconds": whole, "gone": gone, "left": left, "ratio": left / (whole - gone),
        "forwards": sum(one.forwards for one in findings.verdicts), "findings": len(findings),
        "forwards_tenth": sum(one.forwards for one in findings.verdicts[: prompts // 10]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one prompt")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; default drawn noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, evaluator = (ca.load_model(open_clip.create_model("ViT-B-32", pretrained=None)) for _ in range(2))
    busy = Busy(time.perf_counter)
    encoded.activations = busy.counted(encoded.activations)
    evaluator.encode_image = busy.counted(evaluator.encode_image)
    with tempfile.TemporaryDirectory() as folder:
        files = pictures_in(Path(folder), arguments.photos, PICTURES)
        base = Base.of(study_of(files, model, evaluator), Settings())
        rows = []
        for name, clock in (("wall", time.perf_counter), ("thread", time.thread_time)):
            seconds, ran = spent(base, clock, busy, 1 if arguments.quick else PROMPTS)
            rows.append({"clock": name, "seconds": seconds, "busy": ran, "idle_share": 1 - ran / seconds})
            print(rows[-1])
        few = 10 if arguments.quick else AUDITED
        whole = estimated(whole_study(files, model, evaluator, few, folder), few)
        print(whole)
    forwards = base.settings.inserted + base.settings.occluded * PRICE
    figures = {f"idle_share_{row['clock']}": row["idle_share"] for row in rows}
    figures["forwards_a_prompt"] = float(forwards)
    figures |= {f"audit_{name}": float(value) for name, value in whole.items()}
    write_results("audit_forwards", figures, [*rows, whole], quick=arguments.quick)


if __name__ == "__main__":
    main()
