"""Pairing the latents of a comparison's models in the background, with progress and an end.

Owns the job. The pairing itself is `clipattr.discovery.partners`. Ignores widgets. Start at `Pairer.start`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from clipattr.discovery.partners import partners
from clipattr_widgets.desk import Desk
from clipattr_widgets.worker import Worker


class Pairer:
    """Pairs the latents of each study but the first with those of the first, in the worker's long lane.

    Args:
        told: called with the other model's name, pictures done, pictures asked (of all models), and seconds left (None
            before the first are done); with () at the end.
        came: called with the partners in the first study by latent, one mapping a study but the first.
        failed: called with what went wrong.
    """

    LANE = "pairs"

    def __init__(
        self,
        worker: Worker,
        told: Callable[[tuple[Any, ...]], None],
        came: Callable[[list[dict[int, int]]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.worker, self._told, self._came, self._failed = worker, told, came, failed

    def start(self, desks: Sequence[Desk], names: Sequence[str]) -> None:
        """Pair these studies' latents; every pair that is finished is kept with the first study for the next time."""
        first, others = desks[0], desks[1:]
        now = [names[1]]
        count = self.worker.paced(self.LANE, lambda progress: self._told((now[0], *progress)))

        def work() -> list[dict[int, int]]:
            found = []
            for place, desk in enumerate(others):
                now[0] = names[place + 1]

                def told(done: int, of: int, place: int = place) -> None:
                    count(place * of + done, len(others) * of)

                ours, theirs, _ = partners(
                    first.study, desk.study, keep=not first.read_only, folder=first.scratch, on_pictures=told
                )
                found.append(dict(zip(theirs.tolist(), ours.tolist(), strict=True)))
            return found

        def came(found: list[dict[int, int]]) -> None:
            self._told(())
            self._came(found)

        def failed(error: Exception) -> None:
            self._told(())
            self._failed(error)

        self._told((now[0], 0, 0, None))
        self.worker.submit(self.LANE, work, came, failed, long=True)

    def cancel(self) -> None:
        """Forget the pairing, which ends with the pictures in hand."""
        self.worker.forget(self.LANE)
        self._told(())
