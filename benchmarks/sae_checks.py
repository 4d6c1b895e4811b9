"""Checks after loading: a dictionary must be accepted at its own site and refused at other layers and models.

    python benchmarks/sae_checks.py [--quick] [--pictures N]

Every bundled study's dictionary is checked on its own model and images, on images of another world, and in wrong ways:
at every other block, with its pre-bias or row normalisation switched, and on other models of the same width. The
constants of clipattr/dictionaries/quality.py were chosen on the study picture-world; figures are over the others.
"""

from __future__ import annotations

import argparse

from results import write_results

CHOSEN = "picture-world"
REPORTED = ("picture-world-b", "picture-world-c", "lesions")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pictures", type=int, default=128)
    arguments.add_argument("--quick", action="store_true", help="one study, 32 images, nothing written")
    told = arguments.parse_args()
    import clipattr as ca

    names = (CHOSEN,) if told.quick else (CHOSEN, *REPORTED)
    pictures = 32 if told.quick else told.pictures
    studies = {name: ca.open_study(name) for name in names}
    rows = [row for name in names for row in checked(ca, name, studies, pictures)]
    for row in rows:
        print(
            f"{row['study']:18s} {row['how']:34s} FVU {row['fvu']:9.3f}  {'accepted' if row['accepted'] else 'refused'}"
        )

    def share(kind: str, accepted: bool) -> float:
        some = [
            row["accepted"] == accepted for row in rows if row["kind"] == kind and row["study"] in REPORTED
        ]
        return sum(some) / max(len(some), 1)

    figures = {
        "right_accepted": share("right", True),
        "other_images_accepted": share("other images", True),
        "wrong_refused": share("wrong", False),
        "checks": len(rows),
    }
    print(figures)
    if not told.quick:
        write_results("sae_checks", figures, rows)


def checked(ca, name, studies, pictures):
    """One row for each way of using a study's dictionary."""
    study = studies[name]
    dictionary, own = study.dictionary, study.dictionary.site
    promise = {
        "explained_variance": dictionary.card["figures"]["explained_variance"],
        "l0": dictionary.card["figures"]["l0"],
    }
    parts = dictionary._all_tensors()
    blocks = study.model.image_blocks
    last = ca.Site(own).index(study.model)
    ways = [("right", "as it is", dictionary, study.model, study.images)]
    others = [other for other in studies if studies[other].images.fingerprint != study.images.fingerprint]
    ways += [
        ("other images", f"images of {other}", dictionary, study.model, studies[other].images)
        for other in others[:1]
    ]
    for block in range(blocks):
        if block != last:
            moved = dictionary._rebuilt(parts)
            moved.site = f"image.{block}.cls"
            ways.append(("wrong", f"at {moved.site}", moved, study.model, study.images))
    ways.append(
        (
            "wrong",
            "with row normalisation",
            dictionary._rebuilt(parts, row_norm="layer_norm"),
            study.model,
            study.images,
        )
    )
    for other in studies:
        model = studies[other].model
        if model.weights_hash != study.model.weights_hash and model.image_width == study.model.image_width:
            ways.append(("wrong", f"on {model.reference}", dictionary, model, study.images))
    for kind, how, made, model, images in ways:
        made.model_hash = None
        check = ca.check_sae(made, model, images, promise=promise, pictures=pictures)
        yield {
            "study": name, "kind": kind, "how": how, "fvu": check.figures["fvu"], "accepted": check.agrees,
            "reason": check.reasons[0] if check.reasons else "",
        }  # fmt: skip


if __name__ == "__main__":
    main()
