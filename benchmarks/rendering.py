"""Speed of rendering the picture world: pictures per second on one core, with scenes drawn as in each world."""

from __future__ import annotations

import argparse
import time

from results import write_results

from clipattr_data.scene import render
from clipattr_data.world import TEST, World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    arguments = parser.parse_args()
    n, rows = (2_000 if arguments.quick else 10_000), []
    for name in ("picture-world-a", "picture-world-evaluator"):
        world = World.open(name)
        scenes = [world.scene(index, TEST) for index in range(n)]
        render(scenes[: n // 10])  # sprites of every size are scaled once
        start = time.perf_counter()
        for at in range(0, n, 500):
            render(scenes[at : at + 500])
        rows.append({"world": name, "pictures_per_second": n / (time.perf_counter() - start)})
        print(f"{name:28} {rows[-1]['pictures_per_second']:,.0f} pictures/s")
    figures = {"pictures_per_second": min(row["pictures_per_second"] for row in rows)}
    write_results("rendering", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
