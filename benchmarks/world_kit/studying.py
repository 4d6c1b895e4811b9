"""Builds the study that a world is audited in, and opens it in its forms.

The forms differ in what is known of the pictures: `plain` has the world's own words and no labels, `labels` has the
labels as well, `general` and `imagenet21k` have the vocabularies of these names in place of the world's words, `names`
has two more names for every word, and `embedding` is read at `image.embedding`, with its own dictionary. Start at
`build_forms` and `open_form`.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from .scene import STUDY
from .world import World

FORMS = ("plain", "labels", "general", "names")
EMBEDDING, IMAGENET = "embedding", "imagenet21k"  # not among the forms that every round has
MORE_NAMES = ("one {}", "a picture of a {}")  # phrases of the captions that mean the same
EVALUATORS = ("evaluator", "evaluator-middle", "evaluator-weak")
WEAKER = ("plain-middle", "plain-weak")  # the plain form by a weaker evaluator
PICTURES = 6000  # a study of so many pictures gets its 8 latents a dimension by default


def write_pictures(world: World, folder: Path, n: int) -> None:
    """Write PNG files, `labels.csv`, `contents.json`, `vocabulary.txt` and `prompts.txt`; nothing where they are."""
    from PIL import Image

    if (folder / "prompts.txt").exists() and len(list((folder / "images").glob("*.png"))) == n:
        return
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, contents = [], {}
    for i in range(n):
        scene, name = world.scene(i, STUDY), f"{i:05d}.png"
        Image.fromarray(world.pixels(i, STUDY)).save(folder / "images" / name, compress_level=1)
        rows.append((name, world.label(scene)))
        contents[name] = world.contents(scene)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    (folder / "contents.json").write_text(json.dumps(contents), encoding="utf-8")
    (folder / "vocabulary.txt").write_text("\n".join(world.vocabulary) + "\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(world.prompts) + "\n", encoding="utf-8")


def family_of(name: str) -> str:
    """The family of a world's name."""
    return name.split("-", 1)[0]


def place(out: Path, world: str, form: str, evaluator: str = EVALUATORS[0]) -> Path:
    """The folder of a form's study; `labels` shares that of `plain`."""
    name = "plain" if form == "labels" else form
    return out / "studies" / world / (name + evaluator.removeprefix("evaluator"))


def build_forms(
    world: World,
    models: Path,
    out: Path,
    n: int = PICTURES,
    evaluator: str = EVALUATORS[0],
    forms: tuple[str, ...] = FORMS,
) -> list[Path]:
    """Write the pictures and build a study of each form, with default settings; finished ones are opened only.

    Args:
        world: whose model is audited.
        models: the folder of trained models, one folder a world.
        out: gets `pictures/NAME` and `studies/NAME/FORM`.
        n: pictures.
        evaluator: which one of the family, one of `EVALUATORS`.
        forms: which of `FORMS`, "imagenet21k", or "embedding"; all but the last share the pictures' encodings and the
            dictionary of `plain`.

    Returns:
        the studies' folders.
    """
    import clipattr as ca

    pictures = out / "pictures" / world.name
    write_pictures(world, pictures, n)
    model, judge = (
        ca.load_model(f"local-dir:{models / name}")
        for name in (world.name, f"{family_of(world.name)}-{evaluator}")
    )
    words = (pictures / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
    more = pictures / "vocabulary-names.txt"
    lines = [*words, *(name.format(word) for name in MORE_NAMES for word in words)]
    more.write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabularies = {"general": "general", IMAGENET: IMAGENET, "names": str(more)}
    first = place(out, world.name, "plain", evaluator)
    trained = place(out, world.name, "plain") / "dictionary"
    made: list[Path] = []
    for form in sorted(forms, key=(*FORMS, IMAGENET, EMBEDDING).index):
        alone = form == EMBEDDING
        target = place(out, world.name, form, evaluator)
        if target in made or (target / "study.json").exists() and not (target / ".copied").exists():
            continue
        if target != first and not alone and not target.exists():
            copy = target.with_name(target.name + ".copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(first, copy)  # its encodings are used again
            (copy / ".copied").touch()  # until its own words are in it
            copy.rename(target)
        ca.build_study(
            model,
            pictures / "images",
            path=target,
            vocabulary=vocabularies.get(form, str(pictures / "vocabulary.txt")),
            evaluator=judge,
            site="image.embedding" if alone else None,
            dictionary=str(trained) if target.parent / "plain" != target and not alone else None,
            overwrite=target != first and not alone,
            thumbnails=(first / "thumbnails.npy").exists(),
            progress=False,
        )
        (target / ".copied").unlink(missing_ok=True)
        made.append(target)
    return made


def open_form(out: Path, world: str, form: str, evaluator: str = EVALUATORS[0]) -> Any:
    """The study of one form.

    Args:
        out: as in `build_forms`.
        world: its name.
        form: one of `FORMS`.
        evaluator: one of `EVALUATORS`.
    """
    import clipattr as ca

    study = ca.open_study(place(out, world, form, evaluator))
    if form == "labels":
        with (out / "pictures" / world / "labels.csv").open(newline="", encoding="utf-8") as file:
            label = {row["image"]: row["label"] for row in csv.DictReader(file)}
        study.images.columns["label"] = [label[Path(i).name] for i in study.images.ids]
    return study
