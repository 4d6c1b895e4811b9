"""An audit in steps: a few prompts at a time, so that findings come as they are made and an audit can be ended.

Owns the steps, the estimate of what is left, and the end. The audit itself is `clipattr.audit`. Ignores widgets. Start
at `Auditor.start`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from clipattr.discovery.findings import Findings
from clipattr_widgets.desk import Desk
from clipattr_widgets.worker import Worker

STEP = 4  # prompts per step: few enough to show progress and to stop soon
BACKGROUND = (
    20  # prompts from which on the list itself is the background of the contrast, as in `clipattr.audit`
)


class Auditor:
    """Audits one study over prompts, a step at a time.

    Args:
        changed: called after every step with the `Findings` so far and the verdicts on their prompts, prompts done,
            prompts asked, and seconds left (None before the first step ends).
        failed: called with what went wrong.
    """

    def __init__(
        self,
        desk: Desk,
        worker: Worker,
        changed: Callable[[Findings, int, int, float | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.desk, self.worker, self._changed, self._failed = desk, worker, changed, failed
        self.running = False
        self._earlier: Findings | None = None

    def prompts(self) -> list[str]:
        """The study's own prompts: its pictures' labels, else the words of its vocabulary."""
        labels = [label.replace("_", " ") for label in self.desk.study.images.columns["label"] if label]
        return list(dict.fromkeys(labels)) or list(self.desk.study.vocabulary.words)

    def start(self, prompts: Sequence[str] | None = None, earlier: Findings | None = None) -> None:
        """Start the audit; no effect while one runs.

        Args:
            earlier: findings that stay until their prompt has been audited again.
        """
        if self.running:
            return
        asked = list(prompts if prompts is not None else self.prompts())
        self.running = True
        self._earlier = earlier
        self._begun = time.monotonic()
        none = Findings([], self.desk.study)
        self._changed(none, 0, len(asked), None)
        self._step(asked, 0, none)

    def cancel(self) -> None:
        """Stop after the current step; findings so far are kept."""
        self.running = False

    def _joined(self, found: Findings, asked: Sequence[str]) -> Findings:
        """The findings so far, and earlier ones for prompts that were not asked yet."""
        if self._earlier is None:
            return found
        again = {prompt.casefold() for prompt in asked}
        kept = [f for f in self._earlier if f.prompt.casefold() not in again]
        said = [v for v in self._earlier.verdicts if v.prompt.casefold() not in again]
        order = sorted([*found, *kept], key=lambda f: -f.causal_effect.value)
        return Findings(order, self.desk.study, found.about, [*found.verdicts, *said])

    def _step(self, asked: list[str], done: int, found: Findings) -> None:
        import clipattr

        some = asked[done : done + STEP]
        if not some or not self.running:
            self.running = False
            self._changed(self._joined(found, asked[:done]), done, len(asked), 0.0)
            return
        background = asked if len(asked) >= BACKGROUND else None
        study = self.desk.study

        def work() -> Any:
            return clipattr.audit(study, some, background=background, progress=False)

        def came(new: Any) -> None:
            at = done + len(some)
            order = sorted([*found, *new], key=lambda f: -f.causal_effect.value)
            verdicts = [*found.verdicts, *getattr(new, "verdicts", ())]
            about = {**getattr(new, "about", {}), "prompts_audited": at}
            both = Findings(order, study, about, verdicts)
            left = (time.monotonic() - self._begun) / at * (len(asked) - at)
            if self.running and at < len(asked):
                self._changed(self._joined(both, asked[:at]), at, len(asked), left)
            self._step(asked, at, both)

        def wrong(error: Exception) -> None:
            self.running = False
            self._changed(self._joined(found, asked[:done]), done, len(asked), 0.0)
            self._failed(error)

        self.worker.submit("audit", work, came, wrong, long=True)
