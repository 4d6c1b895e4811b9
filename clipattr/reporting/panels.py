"""`explore`: the panels, imported when the function is called."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipattr.studies.study import Study


def explore(study: "Study", **options: Any) -> Any:
    """Open the panels on a study, inline in a notebook.

    Args:
        study: the study.
        options: of `clipattr_widgets.explore`.

    Returns:
        The panel, an ipywidgets box; a notebook shows it.

    Raises:
        ImportError: the panels are not installed.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> type(ca.explore(study)).__name__
    'ExplorerPanel'
    """
    from clipattr_widgets import explore as open_panels

    return open_panels(study, **options)
