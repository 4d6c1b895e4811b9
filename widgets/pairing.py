"""Pairing the latents of a comparison's models in the background, with progress and an end.

Owns the job. The pairing itself is `clipattr.discovery.partners`. Ignores widgets. Start at `Pairer.start`.
"""

from collections.abc import Sequence

from clipattr.discovery.partners import partners
from clipattr_widgets.desk import Desk
from clipattr_widgets.worker import PacedJob


class Pairer(PacedJob):
    """Pairs the latents of each study but the first with those of the first, in the worker's long lane.

    Args:
        told: called with the other model's name, pictures done, pictures asked (of all models), and seconds left (None
            before the first are done); with () at the end.
        came: called with the partners in the first study by latent, one mapping a study but the first.
        failed: called with what went wrong.
    """

    LANE = "pairs"

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

        self._submit(work, (now[0], 0, 0, None))
