"""`clipattr serve` as visitors and intruders meet it."""

import http.client
import json
import re
import subprocess
import sys

import psutil
import pytest

from clipattr.cli.serve import serving

pytestmark = pytest.mark.browser

TOKEN = "a-token-for-tests"
READY = ".clipattr-bars[data-gen] .clipattr-bar-row"
SCORE = ".clipattr-panel .clipattr-score"


@pytest.fixture(scope="module")
def served(study_folder, environment):
    import os

    from_before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MPLCONFIGDIR")}
    os.environ.update({name: environment[name] for name in from_before})
    try:
        with serving(study_folder, port=free_port(), token=TOKEN) as found:
            yield found
    finally:
        for name, value in from_before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(address, path, method="GET"):
    """Status and body of a request sent as it stands: no client tidies the path."""
    host, port = address.split("//")[1].split("/")[0].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode("utf-8", errors="replace")
    connection.close()
    return answer.status, body


def kernels(server):
    return [
        p for p in psutil.Process(server.pid).children(recursive=True) if "ipykernel" in " ".join(p.cmdline())
    ]


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/?token=A-token-for-tests"])
def test_without_the_right_token_there_is_no_page_and_no_kernel(served, path):
    address, server = served
    before = len(kernels(server))
    status, body = ask(address, path)
    assert status in (302, 401, 403) and "clipattr_widgets" not in body and "kernelId" not in body
    assert len(kernels(server)) == before


@pytest.mark.parametrize(
    "path",
    [
        "/voila/files/study.json", "/voila/files/clipattr.ipynb", "/voila/files/../config/voila.json",
        "/voila/files/..%2f..%2f..%2f..%2fetc%2fpasswd", "/voila/files//etc/passwd",
        "/voila/static/../../../../../../../etc/passwd", "/voila/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/voila/templates/lab/static/../../../../../../../../etc/passwd", "/voila/templates/../static/x",
        "/voila/labextensions/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "/voila/tree", "/voila/render/clipattr.ipynb",
        "/api/contents", "/api/kernels", "/files/etc/passwd", "/..%2f..%2fetc%2fpasswd",
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", ["", f"?token={TOKEN}"])
def test_nothing_outside_the_page_is_readable(served, path, token):
    status, body = ask(served[0], path + token)
    assert (
        "root:" not in body
        and TOKEN not in body
        and '"nbformat"' not in body
        and "hash" not in body[:4000].lower()
    )
    assert status >= 300 or path.startswith("/..") or "voila/static" in path, (status, body[:300])


@pytest.fixture(scope="module")
def visitors(served, opened):
    """Two people looking at once."""
    pages = [opened(width=1200, height=900) for _ in range(2)]
    for page in pages:
        page.page.goto(served[0])
    for page in pages:
        page.page.wait_for_selector(READY)
        page.page.wait_for_function(
            "s => /[0-9]/.test(document.querySelector(s + ' b')?.innerText)", arg=SCORE
        )
        page.settle()
    return pages


def test_two_visitors_see_only_what_they_chose_themselves(visitors, served, screenshots):
    one, two = visitors
    before = two.text(SCORE)
    box = one.page.get_by_label("prompt", exact=True).first
    box.fill("a photo of a rocket")
    one.after(".clipattr-bars", lambda: box.press("Enter"))
    one.page.wait_for_function("s => document.querySelector(s).innerText.includes('rocket')", arg=SCORE)
    assert two.text(SCORE) == before and "rocket" not in before
    assert len(kernels(served[1])) == 2
    asked = one.page.evaluate("() => performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in asked if not name.startswith((served[0].split("?")[0], "blob:", "data:"))] == []
    one.page.screenshot(path=screenshots / "serve.png")


def test_the_page_says_whose_it_is_follows_the_systems_theme_and_its_address_follows(
    visitors, served, opened, violations, screenshots
):
    one = visitors[0]
    assert "picture-world" in one.text(".clipattr-served h1") and "read-only" in one.text(
        ".clipattr-served p"
    )
    assert one.page.title() == "picture-world · clipattr"
    one.page.emulate_media(color_scheme="dark")
    light = "() => getComputedStyle(document.querySelector('.clipattr-panel')).backgroundColor"
    one.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    assert sum(int(n) for n in re.findall(r"\d+", one.page.evaluate(light))[:3]) < 150
    one.page.screenshot(path=screenshots / "serve-dark.png")
    assert violations(one.page, ".clipattr-panel", "color-contrast") == []
    one.page.emulate_media(color_scheme="light")
    one.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'true'")
    one.settle()
    number = one.page.get_by_label("picture", exact=True).first
    number.fill("7")
    number.press("Enter")
    one.page.wait_for_function("() => location.search.includes('picture=7')")
    assert "prompt=a+photo+of+a+rocket" in one.page.url and f"token={TOKEN}" in one.page.url


def test_a_visitor_changes_nothing_in_the_study(visitors, study_folder, goes_wrong):
    one = visitors[0]
    one.settle()
    name = one.page.get_by_placeholder("name latent").first
    name.fill("stolen")
    name.press("Enter")
    one.page.wait_for_selector(".clipattr-error:has-text('read-only')")
    names = study_folder / "names.json"
    assert not names.exists() or "stolen" not in names.read_text()


SNEAK = """async ([code]) => {
  const config = JSON.parse(document.getElementById('jupyter-config-data').textContent);
  const root = location.origin.replace('http', 'ws');
  const socket = new WebSocket(`${root}/api/kernels/${config.kernelId}/channels?session_id=sneak`);
  await new Promise((done, fail) => { socket.onopen = done; socket.onerror = fail; });
  const send = (msg_type, content) => socket.send(JSON.stringify({
    header: {msg_id: crypto.randomUUID(), username: '', session: 'sneak', msg_type, version: '5.3',
             date: new Date().toISOString()},
    parent_header: {}, metadata: {}, content, channel: 'shell', buffers: []}));
  const heard = [];
  const answered = new Promise((done) => { socket.onmessage = (event) => {
    const type = typeof event.data === 'string' ? JSON.parse(event.data).msg_type : 'binary';
    heard.push(type);
    if (type === 'kernel_info_reply') done();
  }; });
  send('execute_request', {code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false,
                           stop_on_error: true});
  send('kernel_info_request', {});
  await Promise.race([answered, new Promise((done) => setTimeout(done, 8000))]);
  socket.close();
  return heard;
}"""


def test_code_sent_by_a_visitor_is_not_run(visitors, tmp_path, goes_wrong):
    mark = tmp_path / "mark"
    heard = visitors[1].page.evaluate(SNEAK, [f"open({str(mark)!r}, 'w').close()"])
    assert "kernel_info_reply" in heard and "execute_reply" not in heard
    assert not mark.exists()


def test_a_killed_kernel_is_answered_with_a_message(visitors, served, screenshots, goes_wrong):
    two = visitors[1]
    for process in kernels(served[1]):
        process.kill()
    two.page.locator(".clipattr-bar-row").nth(1).click()
    two.page.wait_for_selector(".clipattr-pulse:has-text('kernel')")
    two.page.screenshot(path=screenshots / "serve-gone.png")


def test_no_visitor_can_set_a_password_and_lock_out_the_others(served):
    status, body = ask(served[0], "/login")
    assert status == 200 and 'name="new_password"' not in body


def test_a_server_that_is_asked_to_end_leaves_nothing_running(study_folder):
    command = [sys.executable, "-m", "clipattr.cli", "serve", str(study_folder), f"--port={free_port()}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asked:
        assert "serving" in asked.stdout.readline()
        below = psutil.Process(asked.pid).children(recursive=True)
        assert below
        asked.terminate()
        assert asked.wait(30) == 128 + 15
    assert psutil.wait_procs(below, timeout=10)[1] == []


def test_the_token_is_not_on_the_servers_command_line(served):
    assert TOKEN not in json.dumps(psutil.Process(served[1].pid).cmdline())
