"""JupyterLab, Voila and a headless Chromium for tests that look at panels as people do.

Screenshots go to the folder that CLIPATTR_SCREENSHOTS names, else to the test run's own temporary folder. Where no
Chromium is found the tests are skipped, except under CI=true, where they fail.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import nbformat
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# A machine with other work may need more.
TIMEOUT_MS = 1000 * int(os.environ.get("CLIPATTR_BROWSER_SECONDS", "180"))


LOOKS = (("light", 1440), ("dark", 760), ("light", 760), ("dark", 1440))  # JupyterLab's themes, CSS pixels
PLACES = ("serve", "voila", "lab")


def pytest_generate_tests(metafunc):
    """In which looks panels and pages are looked at (`theme`, `width`), and where in them analysts sit (`seated`).

    All of them where CLIPATTR_TASKS=all; else two looks, and one seat a place, with both themes and both widths among
    them. CLIPATTR_TASKS=lab-dark-760,serve-light-760 names analysts' seats.
    """
    asked = os.environ.get("CLIPATTR_TASKS", "")
    if "width" in metafunc.fixturenames:
        metafunc.parametrize(("theme", "width"), LOOKS if asked == "all" else LOOKS[:2])
    if "seated" in metafunc.fixturenames:
        seats = [(place, *look) for place in PLACES for look in LOOKS]
        if asked not in ("", "all"):
            named = {_called(seat): seat for seat in seats}
            seats = [named[name] for name in asked.split(",")]
        elif not asked:
            seats = [(place, *look) for place, look in zip(PLACES, LOOKS, strict=False)]
        metafunc.parametrize("seated", seats, indirect=True, scope="module", ids=_called)


def _called(seat):
    return "-".join(map(str, seat))


@pytest.fixture(scope="session")
def chromium():
    """One headless browser for all tests."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _without("playwright is not installed")
    if path is None:
        _without("no chromium on the PATH")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        except Error as error:
            _without(f"chromium does not start: {error}")
        yield browser
        browser.close()


def _without(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; under CI=true the browser tests must run")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    named = os.environ.get("CLIPATTR_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    """A copy of the bundled study, so that renames and verdicts have a place to go."""
    import clipattr_data

    folder = tmp_path_factory.mktemp("study") / "picture-world"
    shutil.copytree(clipattr_data.studies_dir() / "picture-world", folder)
    return folder


OTHER = "picture-world-b"  # another model's study, for comparisons


def paired(folder):
    """The study's copy in this folder, and another model's, with pairs of latents made up: finding them takes half a
    minute, and is tested elsewhere."""
    import numpy as np

    import clipattr
    from clipattr.discovery.partners import LEAST_HASH

    one, two = clipattr.open_study(folder), clipattr.open_study(OTHER)
    few = np.arange(40)
    name = f"partners-{one.hash[:LEAST_HASH]}-{two.hash[:LEAST_HASH]}.npz"
    np.savez_compressed(folder / name, latent=few, other=few, correlation=few / 40.0)
    return folder, two.path


@pytest.fixture(scope="session")
def two_studies(tmp_path_factory):
    """A function that copies the study to write to, and says where another model's is."""
    import clipattr_data

    def copy(name):
        folder = tmp_path_factory.mktemp(name) / "picture-world"
        shutil.copytree(clipattr_data.studies_dir() / "picture-world", folder)
        return paired(folder)

    return copy


@pytest.fixture(scope="session")
def findings(study_folder):
    """Twelve findings of the study, in the form of an audit's."""
    import clipattr
    from clipattr.discovery.findings import Finding, Findings
    from clipattr.statistics import Interval

    study = clipattr.open_study(study_folder)
    labels = study.images.columns["label"]
    made = []
    for number, word in enumerate(sorted({label for label in labels if label})[:12]):
        rows = [row for row, label in enumerate(labels) if label == word][:8]
        latents = tuple(int(j) for j in study.codes.rows(rows[0]).to_csr().indices[:2])
        effect = 0.12 - 0.005 * number
        span = Interval(effect, effect - 0.01, effect + 0.01)
        made.append(
            Finding(word.replace("_", " "), latents, study.latents["label"].iloc[latents[0]], "context", 0.8, span,
                    span, 0.4, -0.1, 0.6, 0.9, tuple(study.images.ids[row] for row in rows), {"pictures": 12})
        )  # fmt: skip
    return Findings(made, study, {"prompts_audited": 12, "pictures": 9000})


@pytest.fixture(scope="session")
def findings_file(findings, tmp_path_factory):
    file = tmp_path_factory.mktemp("findings") / "findings.json"
    findings.to_json(file)
    return file


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Settings of a user who has none, so that nothing of this machine's user is read or written."""
    home = tmp_path_factory.mktemp("jupyter")
    # Lab asks once whether it may fetch news; the question would cover what is clicked.
    quiet = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
             "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")  # fmt: skip
    settings = {name: str(home / name.lower()) for name in names}
    return {
        **os.environ,
        **settings,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "MPLCONFIGDIR": str(home),
    }


@pytest.fixture(scope="session")
def lab(notebooks, environment):
    port = _free_port()
    arguments = ["--allow-root", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
                 "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
                 f"--ServerApp.root_dir={notebooks}"]  # fmt: skip
    yield from _serve([sys.executable, "-m", "jupyterlab", *arguments], port, environment, "/api/status")


@pytest.fixture(scope="session")
def voila(notebooks, environment):
    yield from voila_at(notebooks, environment)


def voila_at(folder, environment):
    """Serve a folder of notebooks with Voila; yields the address."""
    port = _free_port()
    command = [sys.executable, "-m", "voila", "--no-browser", f"--port={port}", str(folder)]
    yield from _serve(command, port, environment, "/voila/static/main.js")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(command, port, environment, probe):
    root = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(TIMEOUT_MS // 100):
            if server.poll() is not None:
                pytest.fail(f"{command[2]} ended with code {server.returncode} before it served anything")
            try:
                urllib.request.urlopen(root + probe, timeout=1).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"{command[2]} does not answer at {root}{probe}")
        yield root
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def serve_command():
    """A function that serves with a command, at a port of its own; yields the address."""

    def run(command, environment, probe):
        port = _free_port()
        yield from _serve([*command, f"--port={port}"], port, environment, probe)

    return run


@pytest.fixture(scope="session")
def weak_text():
    """A function that says which texts of a page's panels stand out too little from what lies behind them."""
    script = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")

    def look(page):
        found = page.evaluate(script)
        assert found["seen"] > 20
        return found["weak"]

    return look


@pytest.fixture(scope="session")
def violations():
    """A function that runs axe-core on a page, or on a part of it, with all rules of WCAG 2.2 A and AA or `only` one:
    what breaks them, as a list of texts."""
    script = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

    def look(page, within="html", only=None):
        page.evaluate(f"() => {{ if (!window.axe) {{ {script} }} }}")
        found = page.evaluate(
            "async ([within, type, values]) => (await axe.run(within, { runOnly: { type, values }, resultTypes: "
            "['violations'], preload: false })).violations",
            [within, "rule" if only else "tag", [only] if only else tags],
        )
        return [
            f"{rule['id']}: {node['html'][:160]} | {(node['failureSummary'] or '').splitlines()[-1][:160]}"
            for rule in found
            for node in rule["nodes"]
        ]

    return look


@pytest.fixture(scope="session")
def notebook(notebooks):
    """A function that writes a notebook of these cells and returns its name."""

    def write(name, *cells, kernel="python3"):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(book, notebooks / name)
        return name

    return write


# A panel asks Python whether it is there when something is done in it; messages are answered in order. So the answer to
# a question that is asked now comes after all that was done before has been heard. Three frames: what came is drawn.
SETTLED = """() => {
  const pulses = [...document.querySelectorAll(".clipattr-pulse")].filter((pulse) => {
    const panel = pulse.closest(".clipattr-panel");
    return panel && !panel.parentElement.closest(".clipattr-panel");
  });
  if (window.clipattrUnsure) pulses.forEach((pulse) => delete pulse.wanted); // such a part asks for what it missed
  const number = (pulse, name) => Number(pulse.dataset[name] ?? 0);
  for (const pulse of pulses) {
    if (pulse.wanted === undefined) pulse.wanted = number(pulse, "asked") + 1;
    if (number(pulse, "asked") < pulse.wanted) pulse.closest(".clipattr-panel").dispatchEvent(new Event("change"));
  }
  const heard = pulses.length > 0 && pulses.every((pulse) => number(pulse, "heard") >= pulse.wanted);
  const busy = document.querySelector(".clipattr-busy, [data-drawing], .clipattr-grid:not([data-waiting='0'])");
  window.calm = heard && !busy ? (window.calm ?? 0) + 1 : 0;
  return window.calm > 3;
}"""


class Page:
    """A browser page that remembers whatever went wrong in it."""

    # Complaints about a machine without a user or a network, or of Voila about other extensions of JupyterLab.
    FOREIGN = ("favicon", "fonts.g", "jupyterlab/api/news", "/lab/api/news", "sourceMappingURL", "WEBGL", "WebGL",
               "GPU stall", "service worker", "getter for the shared module",
               "(reading 'schema')",  # Notebook 7 about a JupyterLab setting that it lacks
               # Where a page is slow, anywidget says this of every part and drops later messages; ours listen on.
               "[anywidget] Failed to initialize model")  # fmt: skip

    open = []  # all pages that are open

    def __init__(self, browser, width=1280, height=1000, theme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        Page.open.append(self)
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.errors = []
        self.page.on("pageerror", lambda error: self._note("page", str(error)))
        self.page.on("console", self._console)

    def _console(self, message):
        if message.type == "error":
            self._note("console", f"{message.text} {message.location.get('url', '')}")

    def _note(self, where, text):
        if not any(word in text for word in self.FOREIGN):
            self.errors.append(f"{where}: {text}")

    def open_lab(self, root, name):
        self.page.goto(f"{root}/doc/tree/{name}?reset")
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def run_all(self):
        self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")

    def open_voila(self, root, name):
        self.page.goto(f"{root}/voila/render/{name}")

    def wear(self, theme):
        """Put on JupyterLab's theme "light" or "dark": by its own command in Lab; by the system's in a served page; in
        Voila, which has none, by its style sheet."""
        page, light = self.page, str(theme == "light").lower()
        if "/doc/tree/" in page.url:
            name = f"JupyterLab {theme.title()}"
            page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        elif "/voila/render/" in page.url:
            sheet = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab/theme-dark-extension/index.css"
            page.evaluate(
                "([css, light]) => { const made = document.querySelector('#dark') ?? document.head.appendChild("
                "Object.assign(document.createElement('style'), { id: 'dark' })); made.textContent = css; "
                "document.body.dataset.jpThemeLight = light }",
                [sheet.read_text(encoding="utf-8") if theme == "dark" else "", light],
            )
        else:
            page.emulate_media(color_scheme=theme)
        page.wait_for_function("(light) => document.body.dataset.jpThemeLight === light", arg=light)
        page.wait_for_selector("#jupyterlab-splash", state="detached")

    def close(self, lab=False):
        if self not in Page.open:
            return
        try:
            if lab:
                with suppress(Exception):  # a server that has ended has ended its kernels
                    self.page.evaluate("() => jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
        finally:
            Page.open.remove(self)
            self.context.close()

    def gen(self, selector):
        """The generation number that a part shows."""
        return int(self.page.locator(selector).first.get_attribute("data-gen"))

    def settle(self):
        """Wait until Python has heard all that was done so far, everything asked for has come, and it is drawn.

        That nothing is being computed says little by itself: what was done may still be on its way to Python.
        """
        self.page.evaluate(
            "() => document.querySelectorAll('.clipattr-pulse').forEach((pulse) => delete pulse.wanted)"
        )
        self.page.wait_for_function(SETTLED)

    def after(self, selector, act, key="gen"):
        """Do something and wait until a part that was at rest has drawn again, and all is at rest again."""
        self.settle()
        before = self.page.locator(selector).first.get_attribute(f"data-{key}")
        act()
        self.page.wait_for_function(
            "([selector, key, before]) => document.querySelector(selector)?.dataset[key] !== before",
            arg=[selector, key, before],
        )
        self.settle()

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()


@pytest.fixture(autouse=True)
def nothing_goes_wrong(request):
    """No error of a page that was open before, or of its console, during a test that does not ask for `goes_wrong`."""
    before = {page: len(page.errors) for page in Page.open}
    yield
    if "goes_wrong" not in request.fixturenames:
        assert [error for page, seen in before.items() for error in page.errors[seen:]] == []


@pytest.fixture
def goes_wrong():
    """For tests that break something on purpose."""


@pytest.fixture(scope="module")
def opened(chromium):
    """A function that opens pages; they are closed at the end of the module."""
    yield from _opener(chromium)


@pytest.fixture(scope="session")
def kept_open(chromium):
    """A function that opens pages which several modules use."""
    yield from _opener(chromium)


def _opener(chromium):
    pages = []

    def open_page(**options):
        pages.append(Page(chromium, **options))
        return pages[-1]

    yield open_page
    for made in pages:
        made.close(lab="/doc/tree/" in made.page.url or "/notebooks/" in made.page.url)


@pytest.fixture(scope="session")
def explore_cell(findings_file):
    """A function that writes the code which shows all panels of two studies, with findings."""

    def write(one, two):
        return (
            "import clipattr as ca\n"
            "from clipattr.discovery.findings import Findings\n"
            f"studies = [ca.open_study({str(one)!r}), ca.open_study({str(two)!r})]\n"
            f"found = Findings.from_json({str(findings_file)!r}, studies[0])\n"
            "panel = ca.explore(studies, picture=5, findings=found)\npanel"
        )

    return write


@pytest.fixture(scope="session")
def explored(voila, notebook, kept_open, study_folder, explore_cell):
    """All panels of two studies in Voila, linked, on one page that several modules use."""
    made = kept_open(width=1240, height=1000)
    made.open_voila(voila, notebook("explored.ipynb", explore_cell(*paired(study_folder))))
    made.page.wait_for_selector(".clipattr-gallery[data-gen] .clipattr-thumb")
    return made


LAB_CELLS = (
    "import clipattr as ca\n"
    "from clipattr.discovery.findings import Finding\n"
    "from clipattr.statistics import Interval\n"
    "study = ca.open_study({path!r})\n"
    "labels = study.images.columns['label']\n"
    "latents = [int(j) for j in study.codes.rows(5).to_csr().indices[:4]]\n"
    "def finding(prompt, latents, kind, effect, label):\n"
    "    span = Interval(effect, effect - 0.01, effect + 0.01)\n"
    "    return Finding(prompt, tuple(latents), label, kind, 0.8, span, span, 0.4, 0.1, 0.6, 0.9,\n"
    "                   tuple(study.images.ids[5:9]), {{'pictures': 12}})\n"
    "findings = [finding(labels[5], latents[:2], 'context', 0.11, 'one <b>bold</b>'),\n"
    "            finding(labels[6], latents[2:], 'companion', 0.07, 'two \\u202e txt')]",
    "panel = ca.explore(study, picture=5, findings=findings, method='exact')\npanel",
    "from clipattr_widgets import LatentPanel",
)


@pytest.fixture(scope="session")
def lab_page(lab, notebook, kept_open, study_folder):
    name = notebook("panels.ipynb", *(cell.format(path=str(study_folder)) for cell in LAB_CELLS))
    page = kept_open(width=1280, height=1150)
    page.open_lab(lab, name)
    page.run_all()
    page.page.wait_for_selector(".clipattr-panel .clipattr-bars[data-gen]")
    page.page.wait_for_selector(".clipattr-panel .clipattr-gallery[data-gen] .clipattr-thumb")
    return page


# A page that draws one part with its own code and a model that only holds its traits: no kernel, no server.
STAND_IN = """
async ([code, css, traits, bytes, width]) => {
  document.body.replaceChildren();
  document.head.replaceChildren();
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const panel = document.createElement("div");
  panel.className = "clipattr-panel";
  panel.style.minWidth = "0";
  panel.style.width = `${width}px`;
  document.body.append(panel);
  for (const [name, text] of Object.entries(bytes)) {
    const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    traits[name] = new DataView(raw.buffer);
  }
  const heard = {};
  window.sent = [];
  const model = {
    get: (name) => traits[name],
    set: (name, value) => {
      if (typeof name !== "string") return;
      traits[name] = value;
      heard[`change:${name}`]?.();
    },
    save_changes: () => {},
    send: (message) => window.sent.push(message),
    on: (event, act) => { heard[event] = act; },
    off: () => {},
  };
  window.model = model;
  window.tell = (message, buffers) => heard["msg:custom"]?.(message, buffers);
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  (await import(url)).default.render({ model, el: panel });
}
"""


@pytest.fixture(scope="session")
def draw(chromium):
    """A function that draws a part (`BarList`, `Overlay`, …) as it is now and returns the page it is on."""
    made = Page(chromium, width=900, height=900)
    made.page.goto("about:blank")

    def run(part, width=860):
        traits, bytes_ = {}, {}
        for name in part.traits(sync=True):
            value = getattr(part, name)
            if isinstance(value, bytes):
                bytes_[name] = base64.b64encode(value).decode()
            elif isinstance(value, str | int | float | list | dict) and name not in ("_esm", "_css"):
                traits[name] = value
        made.page.evaluate(STAND_IN, [str(part._esm), str(part._css), traits, bytes_, width])
        made.page.wait_for_selector("[data-gen]")
        return made

    yield run
    made.close()
