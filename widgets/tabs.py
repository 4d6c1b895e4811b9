"""The other panels beside the explorer, linked to it: what is chosen in one is chosen in all.

Owns which panel is on the screen and which traits are linked. A panel is built when first looked at. Start at `Tabs`.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets as W
import traitlets as T

from clipattr_widgets.browse import BrowsePanel
from clipattr_widgets.browse_state import BrowseState
from clipattr_widgets.compare import ComparePanel
from clipattr_widgets.compare_state import MAX_MODELS, CompareState
from clipattr_widgets.desk import PanelError
from clipattr_widgets.explorer_state import UPLOAD, ExplorerState
from clipattr_widgets.findings import FindingsPanel
from clipattr_widgets.findings_state import FindingsState
from clipattr_widgets.latent import LatentPanel
from clipattr_widgets.latent_state import LatentState
from clipattr_widgets.map import MapPanel
from clipattr_widgets.map_state import MapState
from clipattr_widgets.prompt import PromptPanel
from clipattr_widgets.prompt_state import PromptState
from clipattr_widgets.text import shown
from clipattr_widgets.world import WorldPanel
from clipattr_widgets.world_state import WorldState, scene_of

NO_SCENE = (
    "“{}” comes from outside this study and has no scene that could be edited. The scene here is one of the "
    "study's own pictures."
)
NAMES = ("Explorer", "Browse", "Latent", "Prompt", "Findings", "Map")


class Tabs:
    """A row of buttons, and the panel that is chosen.

    Args:
        state: the explorer's.
        explorer: the explorer's own boxes.
    """

    def __init__(self, state: ExplorerState, explorer: list[Any]) -> None:
        self.state = state
        names = [*NAMES, *(["Live world"] if _is_rendered(state.table) else [])]
        names += ["Compare"] if len(state.desks) > 1 else []
        self.buttons = W.ToggleButtons(options=names, value="Explorer", style={"button_width": "104px"})
        self.buttons.add_class("clipattr-tabs")
        self._explorer = explorer
        self.panels: dict[str, Any] = {}
        self._links: list[Any] = []
        self._ends: list[Callable[[], None]] = []
        self.box = W.VBox([self.buttons, *explorer])
        self.box.add_class("clipattr-tabbed")
        self.changed: Callable[[Any], None] = lambda _: None  # called when what is on the screen changes
        self.buttons.observe(lambda change: self.show(change["new"]), "value")
        state.observe(self._other_desk, "desk")

    def show(self, name: str) -> None:
        """Bring a panel to the front."""
        if name != "Explorer" and name not in self.panels:
            self.panels[name] = made = getattr(self, f"_build_{name.lower().replace(' ', '_')}")()
            made.state.observe(lambda change: self.changed(change), "gen")
            made.on_picture(self._look_at)
        shown = self._explorer if name == "Explorer" else [self.panels[name]]
        self.box.children = [self.buttons, *shown]
        self.changed(None)

    @property
    def findings(self) -> Any:
        """The audit of the study in hand, or None."""
        return self.state.audits.get(self.state.desk)

    @property
    def in_front(self) -> Any:
        """The panel on the screen; None for the explorer itself."""
        return self.panels.get(self.buttons.value)

    def close(self) -> None:
        """Close the panels that were built, and those of the explorer's boxes that are not on the screen."""
        self.state.unobserve(self._other_desk, "desk")
        self._drop()
        self.box.children = [self.buttons, *self._explorer]

    def _other_desk(self, _: Any) -> None:
        self.buttons.value = "Explorer"
        self._drop()

    def _drop(self) -> None:
        for link in self._links:
            link.unlink()
        self._links = []
        for end in self._ends:
            end()
        self._ends = []
        for panel in self.panels.values():
            panel.close()
        self.panels = {}

    def _look_at(self, picture: int, latent: int, prompt: str) -> None:
        """A thumbnail anywhere opens its picture in the explorer, with the latent and prompt it was shown for."""
        with self.state.hold_trait_notifications():
            self.state.picture = picture
            if prompt and prompt != self.state.prompt:
                self.state.prompt, self.state.against = prompt, ""
        if latent >= 0:
            self.state.look_for(latent)
        self.buttons.value = "Explorer"

    def _link(self, other: Any, *names: str) -> None:
        self._links += [T.link((self.state, name), (other, name)) for name in names]

    def _follow_picture(self, told: Callable[..., None]) -> None:
        """Call `told` now, and whenever the explorer's picture changes."""
        names, state = ["picture", "upload_count"], self.state
        told()
        state.observe(told, names)
        self._ends.append(lambda: state.unobserve(told, names))

    def _build_browse(self) -> Any:
        made = BrowseState(self.state.table, prompt=self.state.prompt, latent=self.state.latent)
        self._link(made, "prompt", "latent")
        made.observe(lambda _: self._open_latent(made.opened_latent), "opened")
        return BrowsePanel(state=made)

    def _open_latent(self, latent: int) -> None:
        self.state.look_for(latent)
        self.buttons.value = "Latent"

    def _build_latent(self) -> Any:

        latent = max(self.state.latent, 0)
        self.state.latent = latent
        made = LatentState(self.state.table, latent=latent, prompt=self.state.prompt)
        self._link(made, "latent", "prompt")
        made.observe(lambda _: self.state.refresh(), "names_changed")
        made.observe(lambda _: setattr(self.buttons, "value", "Prompt"), "opened")
        return LatentPanel(state=made)

    def _build_prompt(self) -> Any:

        state = self.state
        made = PromptState(state.table, prompt=state.prompt, against=state.against, findings=self.findings)
        self._link(made, "prompt", "against")
        made.observe(lambda change: setattr(state, "latent", change["new"]), "latent")
        made.observe(lambda change: self._open_finding(made, change["new"]), "finding")
        return PromptPanel(state=made)

    def _open_finding(self, prompt: PromptState, finding: Any) -> None:
        found = list(self.findings or ())
        if finding is None:
            return
        prompt.finding, self.buttons.value = None, "Findings"
        if finding in found:
            self.panels["Findings"].state.chosen = found.index(finding)

    def _build_findings(self) -> Any:
        state, found = self.state, self.findings or ()
        first = {"chosen": state.finding} if 0 <= state.finding < len(found) else {}
        made = FindingsState(state.table, found, **first)
        self._links.append(T.dlink((made, "chosen"), (state, "finding")))
        made.observe(self._audited, "audited")
        made.observe(lambda _: state.refresh(), "renamed")
        return FindingsPanel(state=made)

    def _build_map(self) -> Any:

        made = MapState(
            self.state.table, latent=self.state.latent, prompt=self.state.prompt, findings=self.findings
        )
        self._link(made, "latent", "prompt")
        made.observe(lambda _: setattr(self.buttons, "value", "Latent"), "opened")
        return MapPanel(state=made, own_latent_panel=False)

    def _build_compare(self) -> Any:

        state = self.state
        # The study in hand comes first: the picture's number is its own.
        places = sorted(range(len(state.desks)), key=lambda place: place != state.desk)[:MAX_MODELS]
        audits = [state.audits.get(place) for place in places]
        made = CompareState(
            [state.desks[place] for place in places],
            picture=max(state.picture, 0),
            prompt=state.prompt,
            against=state.against,
            findings=None if any(found is None for found in audits) else audits,
        )
        self._link(made, "prompt", "against")

        def kept(picture: int) -> int:
            return picture if picture >= 0 else made.picture

        def outside(_: Any = None) -> None:
            """A picture from elsewhere is compared as well."""
            there = state.picture == UPLOAD and state.uploaded is not None
            made.outside = (state.uploaded, state.caption(), state.upload_code) if there else None

        def chosen(_: Any) -> None:
            if made.outside is None and state.picture == UPLOAD:
                state.picture = made.picture

        self._follow_picture(outside)
        made.observe(chosen, "outside")
        self._links.append(T.link((state, "picture"), (made, "picture"), (kept, lambda picture: picture)))
        panel = ComparePanel(state=made)
        panel.on_model(lambda place: state.set_trait("desk", places[place]))
        return panel

    def _build_live_world(self) -> Any:

        state = self.state
        made = WorldState(
            state.table, picture=max(state.picture, 0), prompt=state.prompt, against=state.against
        )
        self._link(made, "prompt", "against", "latent")

        def outside(_: Any = None) -> None:
            there = state.picture == UPLOAD
            made.note = NO_SCENE.format(shown(state.caption(), 60)) if there else ""

        self._follow_picture(outside)
        return WorldPanel(state=made)

    def _audited(self, change: Any) -> None:
        self.state.show_findings(change["new"])
        for name in ("Prompt", "Map"):
            if name in self.panels:
                self.panels[name].state.show_findings(self.findings)


def _is_rendered(desk: Any) -> bool:
    """Whether the study's pictures are editable scenes."""

    try:
        scene_of(desk, 0)
    except PanelError:
        return False
    return True
