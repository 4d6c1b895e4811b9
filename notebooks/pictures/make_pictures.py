"""Makes the pictures that the README shows: the top of the bundled audit's report.

Needs a Chromium on the path. Run from anywhere: `python notebooks/pictures/make_pictures.py`.
"""

import subprocess
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT = 200_000  # bytes a picture in the README may have


def browser_path() -> str:
    """The first Chromium on the path."""
    import shutil

    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        raise SystemExit(f"No browser on the path; looked for {', '.join(BROWSERS)}.")
    return found[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["clipattr", "demo", "--out", folder], check=True)
        page_file = Path(folder) / "clipattr-demo.html"
        with sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1120, "height": 900}, color_scheme="light")
            page.goto(page_file.as_uri())
            target = HERE / "report.jpg"
            page.screenshot(path=target, type="jpeg", quality=82)
            browser.close()
    if target.stat().st_size > LIMIT:
        raise SystemExit(f"{target.name} has {target.stat().st_size:,} bytes, more than {LIMIT:,}.")
    print(f"{target.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
