"""`explore`: the panels, imported when the function is called."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipattr.studies.study import Study


def explore(study: "Study", **options: Any) -> Any:
    """Open the panels on a study, inline in a notebook; see `clipattr_widgets.explore` for the options."""
    from clipattr_widgets import explore as open_panels

    return open_panels(study, **options)
