"""The live world's view-model: an editable scene, its score and attributions, and the true effect of each cause.

Owns the scene and when it is measured again. For every cause in the scene it lays side by side: the *truth* (the scene
rendered again without the cause), and what attribution *says* without ever rendering it. Ignores widgets. Start at
`WorldState`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import traitlets as T
from PIL import Image

from clipattr.attribution import EXPLAINING
from clipattr.errors import ClipattrError
from clipattr_widgets.bar_rows import bar_rows, columns, disagree, factor_of, unit_name
from clipattr_widgets.changes import History
from clipattr_widgets.desk import Desk, PanelError, desk_of, target_code
from clipattr_widgets.measured import Measured
from clipattr_widgets.tables import column, row
from clipattr_widgets.text import plain, shown, signed, words_of
from clipattr_widgets.worker import WorkingState

N_COMPANIONS = 2
WORD = -1  # the number of the written word among the objects that can be moved
N_ROWS = 12

COLUMNS = (
    column("cause", "cause"),
    column("truth", "rendered without it", "fall of the score when the scene is rendered again without this cause: "
           "ground truth", numeric=True),
    column("codes", "its latents, by attribution", "sum of attributions by the method of the bars below, from the "
           "latents' activations without the cause to those with it, with the error node unchanged. ≠ marks a sum of "
           "the opposite sign", numeric=True),
    column("named", "latents of that name off", "fall of the score when the latents that the evaluator names after "
           "the cause are ablated; – if no active latent has that name", numeric=True),
)  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """One cause in a scene and three answers to “how much of the score is due to it?”, raw.

    `truth`: by rendering without it; `codes`: attribution of the latents that change; `named`: ablation of the latents
    of its name (NaN where none is active).
    """

    part: str
    name: str
    truth: float
    codes: float
    named: float


class WorldState(History, WorkingState):
    """Everything the live world shows.

    Args:
        study: a `Study` of rendered pictures, or a shared `Desk`.
        picture: whose scene to begin with.

    Traits that are chosen: `scene` (a `clipattr_data.scene.Scene`; the methods edit it), `prompt`, `against`, `latent`.
    Traits that follow: `image` (rendered), `things` (objects and where they stand), `measured`, `rows`, `columns`,
    `causes`, `before` (the score before the last edit, raw), `first` (the score of the scene begun with), `can_undo`,
    `can_redo`, `pending`, `error`, `gen`.

    Raises:
        PanelError: the study's pictures are not rendered from scenes.
    """

    scene = T.Any()
    prompt = T.Unicode("")
    against = T.Unicode("")
    latent = T.Int(-1)

    image = T.Instance(Image.Image, allow_none=True)
    things: "T.List[dict[str, Any]]" = T.List()
    measured = T.Instance(Measured, allow_none=True)
    rows: "T.List[dict[str, Any]]" = T.List()
    columns = T.Dict()
    causes: "T.List[Cause]" = T.List()
    before = T.Float(float("nan"))
    first = T.Float(float("nan"))
    note = T.Unicode("")  # a remark on the picture that this began with

    def __init__(self, study: Any, *, picture: int = 0, threaded: bool | None = None, **chosen: Any) -> None:
        self.table = desk_of(study)
        self.start_worker(threaded)
        first = chosen.pop("scene", None) or scene_of(self.table, picture)
        self._begun = first  # the scene to go back to
        self._first_of: tuple[Any, str, str] | None = None  # what `first` is the score of
        super().__init__(**({"scene": first, "prompt": first.main or first.word or ""} | chosen))
        self.observe(self._ask, ["scene", "prompt", "against"])
        self._ask()

    # editing; every one of these makes a new scene

    def put(self, part: str, name: str) -> None:
        """Put something in a place: "main", "context", "word", "watermark", or a companion's number ("0", "1").

        An empty name takes it out.
        """
        from clipattr_data.scene import SceneError

        value: Any = " ".join(name.split()) or None
        if value == self.current(part):
            return
        try:
            if part.isdecimal():
                self._show(self._with_companion(int(part), value))
            else:
                self._show(type(self.scene)(**{**self.scene.__dict__, part: value}))
        except SceneError as error:
            self.error = words_of(PanelError(str(error)))

    def _with_companion(self, number: int, name: str | None) -> Any:
        held = [*self.scene.companions, *[None] * (number + 1 - len(self.scene.companions))]
        held[number] = name
        return type(self.scene)(**{**self.scene.__dict__, "companions": tuple(held)}).compact()

    def current(self, part: str) -> str | None:
        """What stands in a place, by `put`'s names."""
        if part.isdecimal():
            held = self.scene.companions
            return held[int(part)] if int(part) < len(held) else None
        return getattr(self.scene, part)

    def move(self, thing: int, left: int, top: int) -> None:
        """Move an object (its place in `things`) to (left, top) px."""
        if not 0 <= thing < len(self.things):
            return
        number = int(self.things[thing]["number"])
        move = self.scene.word_moved if number == WORD else partial(self.scene.moved, number)
        scene = move(left, top)
        if scene == self.scene:
            self._lay_out()  # the view waits for an answer
        else:
            self._show(scene)

    def shuffle(self) -> None:
        """The same objects in another layout."""
        seed = (self.scene.seed * 6364136223846793005 + 1442695040888963407) % (1 << 60)
        self._show(type(self.scene)(**{**self.scene.__dict__, "seed": seed, "places": (), "word_at": None}))

    def start_from(self, text: str) -> None:
        """Start again with the scene of the study's picture with this number, id or label."""
        if text.strip():
            with self.telling():
                self._begun = scene_of(self.table, self.table.find_picture(text)[0])
                self._start_at(self._begun)

    def _show(self, scene: Any) -> None:
        scene.render()  # a scene that cannot be drawn is refused here, before anything changes
        self._change_to(scene)

    def _held(self) -> Any:
        return self.scene

    def _go_to(self, held: Any) -> None:
        if self.measured is not None:
            self.before = self.measured.y
        self.scene = held

    def restart(self) -> None:
        """Go back to the first scene; can be undone."""
        if self.scene != self._begun:
            self._show(self._begun)

    # measuring

    def _ask(self, _: Any = None) -> None:
        desk, scene, prompt, against = self.table, self.scene, self.prompt, self.against
        image, things = scene.picture(), things_of(scene)
        reason = desk.browse_only
        if reason is not None:
            with self.hold_trait_notifications():
                self.image, self.things, self.error = image, things, shown(reason, 600)
                self.measured, self.causes = None, []
            self._lay_out()
            return

        begun, asked = self._begun, (self._begun, prompt, against)
        known = self.first if self._first_of == asked else None

        def work() -> Any:
            target = desk.target(prompt, against)
            measured, causes = weigh(desk, scene, target)
            first = known if known is not None else measured.y
            if known is None and scene != begun:
                first = desk.measure(begun.picture(), target).y
            return image, things, measured, causes, (asked, first)

        self.ask("scene", work, self._set)

    def _set(self, answer: Any) -> None:
        with self.hold_trait_notifications():
            self.error = ""
            self.image, self.things, self.measured, self.causes, (self._first_of, self.first) = answer
        if self.latent < 0 and len(self.measured.latents):
            self.latent = int(self.measured.latents[0])
        self._lay_out()

    def _failed(self, error: Exception) -> None:
        with self.hold_trait_notifications():
            self.error, self.measured, self.causes = words_of(error), None, []
            self.image, self.things = self.scene.picture(), things_of(self.scene)
        self._lay_out()

    def _lay_out(self, _: Any = None) -> None:
        measured = self.measured
        rows = [] if measured is None else bar_rows(measured, self.table.card, n=N_ROWS)
        with self.hold_trait_notifications():
            self.columns = columns(measured.unit if measured else "cosine", False)
            self.rows = rows
            self.gen += 1

    # what to show and take away

    def score_words(self) -> dict[str, str]:
        """The score as text: `unit`, `now`, `change` since the edit before, `since` the scene begun with ("" there)."""
        unit = self.measured.y_unit if self.measured else "cosine"
        now = self.measured.y if self.measured else float("nan")
        factor = factor_of(unit)
        return {
            "unit": unit_name(unit), "now": plain(now * factor), "change": signed((now - self.before) * factor),
            "since": signed((now - self.first) * factor) if self.scene != self._begun else "",
        }  # fmt: skip

    def cause_rows(self) -> list[dict[str, Any]]:
        """Rows for a `DataTable`."""
        factor = factor_of(self.measured.y_unit) if self.measured else 100.0
        return [
            row(i, shown(f"{PART_WORDS.get(c.part, '')}{c.name}", 50), signed(c.truth * factor),
                _beside(c.codes * factor, c.truth * factor), _beside(c.named * factor, c.truth * factor))
            for i, c in enumerate(self.causes)
        ]  # fmt: skip

    def frame(self) -> Any:
        """The causes as a table; effects raw."""
        import pandas as pd

        rows = [(c.part, c.name, c.truth, c.codes, c.named) for c in self.causes]
        return pd.DataFrame(rows, columns=["part", "name", "truth", "by_attribution", "by_name"])

    def code(self) -> str:
        """Python code that computes the view."""
        return "\n".join([
            *self.table.code_head("from clipattr_data.scene import Scene"),
            f"scene = Scene.from_json({self.scene.to_json()!r})",
            f"target = {target_code(self.prompt, self.against)}",
            "with_it = ca.attribute(study, scene.picture(), target)",
            "without = scene.without('context').picture()  # or main, companions, word, watermark, an object's name",
            "truth = with_it.y - ca.attribute(study, without, target).y",
            f"said = ca.attribute(study, scene.picture(), target, method={EXPLAINING!r}, baseline=without)",
            "said = said.values.sum()",
        ])  # fmt: skip


def _beside(said: float, truth: float) -> str:
    """A number, marked where it says the opposite of the truth."""
    return f"≠ {signed(said)}" if disagree(said, truth) else signed(said)


PART_WORDS = {"main": "", "companion": "beside it: ", "context": "around it: ", "word": "", "watermark": ""}


def scene_of(desk: Desk, picture: int) -> Any:
    """The editable scene of a picture.

    Raises:
        PanelError: the pictures of this study are not rendered, or are scenes of another kind.
    """
    from clipattr_data.scene import Scene

    why = "The live world edits rendered scenes"
    if not desk.n_pictures:
        raise PanelError(f"{why}; this study holds no pictures.")
    try:
        scene = desk.study.images[max(0, min(picture, desk.n_pictures - 1))].scene
    except ClipattrError as error:
        raise PanelError(f"{why}; this study's pictures cannot be edited: {error}") from error
    if not isinstance(scene, Scene):
        raise PanelError(f"{why} of the picture world; this study has pictures of another kind.")
    return scene


def things_of(scene: Any) -> list[dict[str, Any]]:
    """What can be moved, in drawing order: `name`, `box` in px, and `number` as in `Scene.moved`, `WORD` the word."""
    present = [number for number, name in enumerate((scene.main, *scene.companions)) if name is not None]
    truth = scene.truth()
    things = [
        {"name": shown(thing.name, 30), "box": [int(n) for n in thing.box], "number": number}
        for number, thing in zip(present, truth.objects, strict=True)
    ]
    if truth.word_box is not None:
        name, box = f"the word {shown(scene.word, 30)}", [int(n) for n in truth.word_box]
        things.append({"name": name, "box": box, "number": WORD})
    return things


def causes_of(scene: Any) -> list[tuple[str, str, Any]]:
    """(part, name, the scene without it) for everything in a scene."""
    found: list[tuple[str, str, Any]] = []
    if scene.main is not None:
        found.append(("main", scene.main, scene.without("main")))
    for number, name in enumerate(scene.companions):
        if name is not None:
            held = tuple(None if i == number else other for i, other in enumerate(scene.companions))
            found.append(("companion", name, type(scene)(**{**scene.__dict__, "companions": held}).compact()))
    if scene.context is not None:
        found.append(("context", scene.context, scene.without("context")))
    if scene.word is not None:
        found.append(("word", f"the word {scene.word}", scene.without("word")))
    if scene.watermark is not None:
        found.append(("watermark", "a watermark", scene.without("watermark")))
    return found


def weigh(desk: Desk, scene: Any, target: Any) -> tuple[Measured, list[Cause]]:
    """The scene's attribution, and each cause's effect by rendering, by attribution and by name."""
    import torch

    from clipattr.attribution.compute import read_site
    from clipattr.attribution.methods import find_method
    from clipattr.attribution.splice import Splice
    from clipattr.sites import Site, continue_from

    measured = desk.measure(scene.picture(), target)
    found = causes_of(scene)
    if not found:
        return measured, []
    study, model, site = desk.study, desk.study.model, Site(desk.site)
    pixels = torch.stack([model.prepare(other.picture()) for _, _, other in found])
    acts, context = read_site(model, pixels.to(model.device, model.dtype), site)
    with torch.no_grad():
        without = target.values(continue_from(model, site, acts, context), model)[:, 0]
    mine = measured.splice
    many = len(found)
    codes = study.dictionary.encode(acts.reshape(-1, acts.shape[-1]))
    repeated = None if mine.context is None else mine.context.expand(many, *mine.context.shape[1:])
    splice = Splice(
        model, study.dictionary, site, mine.acts.expand(many, *mine.acts.shape[1:]), target,
        reference=codes, context=repeated,
    )  # fmt: skip
    said = find_method(EXPLAINING, splice)(splice)[..., 0].sum(1)
    causes = []
    for i, (part, name, _) in enumerate(found):
        named = [int(j) for j in measured.latents if _called(desk.card(int(j)).label, part, name)]
        off = desk.after(measured, dict.fromkeys(named, 0.0)) if named else float("nan")
        causes.append(Cause(part, name, measured.y - float(without[i]), float(said[i]), measured.y - off))
    return measured, causes


def _called(label: str | None, part: str, name: str) -> bool:
    """Whether an evaluator's word names a cause."""
    if label is None:
        return False
    word = label.casefold()
    if part == "word":
        return word in (name.casefold(), "a written word") or word == f"“{name}”".casefold()
    return word == name.casefold()


def choices(kind: str, first: Sequence[str] = ()) -> list[tuple[str, str]]:
    """What can be put into a scene, for a menu; "concepts", "contexts" or "watermarks"."""
    from clipattr_data.drawing import names

    return [("(none)", ""), *((name, name) for name in dict.fromkeys([*first, *sorted(names(kind))]))]
