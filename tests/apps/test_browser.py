"""The page in a real browser: clicks, links, steps back, what is asked of whom, and whether anything overlaps."""

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from probekit.cli import dashboard
from probekit.results.looks import contrast
from probekit.storage.runwriter import RunWriter
from tests.rows_by_hand import write_rows_by_hand
from tests.synthetic_run import BEHAVIOURS, records, write_run

NASTY = '<a href="http://example.org/x">b</a>'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def port(root) -> Iterator[int]:
    """The page over a few runs, served as `probekit dashboard` serves it."""
    pytest.importorskip("streamlit")
    for write in (
        lambda: write_run(root, "first", 6, domains=("random", "endgame")),
        lambda: write_run(root, "second", 6, domains=("random", "endgame")),
        lambda: write_run(root, "nasty", 2, domains=("random",), behaviours=(NASTY,)),
        lambda: write_rows_by_hand(root, "rows"),
    ):
        write()
        time.sleep(1.1)  # runs are listed by the second that they were finished in
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    line, environment = dashboard.dashboard_command(root, number, False)
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(150):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", number)) == 0:
                        break
                time.sleep(0.2)
            yield number
        finally:
            server.terminate()
            server.wait(timeout=20)


def fresh(profile, width: int = 1440):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                 f"--window-size={width},1400"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = fresh(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.quit()


def settled(browser, until=lambda b: True) -> None:
    """Wait until the script has run and a condition holds; no exception is on the page."""
    from selenium.webdriver.common.by import By

    state = (
        "const a = document.querySelector('[data-testid=stApp]'); return a && a.getAttribute('data-test-script-state')"
    )
    quiet, end = 0, time.monotonic() + 90
    while quiet < 4:
        assert time.monotonic() < end, browser.current_url
        time.sleep(0.25)
        quiet = quiet + 1 if browser.execute_script(state) == "notRunning" and until(browser) else 0
    assert not browser.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")


def go(browser, port: int, path: str) -> None:
    browser.get(f"http://127.0.0.1:{port}/{path}")
    settled(browser, lambda b: b.execute_script("return document.querySelectorAll('h1').length"))


def query(browser) -> dict[str, str]:
    return {key: value[0] for key, value in parse_qs(urlsplit(browser.current_url).query).items()}


def click_cell(browser, column: int, n_columns: int) -> None:
    """Click the middle row of the first map in a column."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    area = browser.find_element(By.CSS_SELECTOR, ".js-plotly-plot .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    time.sleep(1)
    right = int(area.rect["width"] * ((column + 0.5) / n_columns - 0.5))
    ActionChains(browser).move_to_element_with_offset(area, right, 0).pause(0.5).click().perform()


def words(browser) -> str:
    return browser.execute_script("return document.querySelector('[data-testid=stMain]').innerText")


def test_a_click_is_one_step_that_the_link_keeps_and_back_undoes(browser, port, tmp_path):
    go(browser, port, f"map?run=first&behaviour={BEHAVIOURS[1]}")
    before = query(browser)
    assert before["behaviour"] == BEHAVIOURS[1] and "hook" not in before
    steps = browser.execute_script("return history.length")
    ticks = len(browser.execute_script("return document.querySelector('.js-plotly-plot').layout.xaxis.tickvals"))
    click_cell(browser, 2, ticks)
    settled(browser, lambda b: "cell=" in b.current_url)
    after = query(browser)
    assert after["cell"] and after.get("hook", "blocks.2.hook_resid_post") == "blocks.2.hook_resid_post"
    assert browser.execute_script("return history.length") == steps + 1
    shown = words(browser)
    assert after["cell"].split(",")[0] in shown
    # The numbers are as easy to read as before the click.
    fills = browser.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot .scatterlayer .textpoint text')].map(t => {"
        "const s = getComputedStyle(t); return [s.fill, s.fillOpacity * s.opacity]})"
    )
    assert fills and all(opacity == 1 for _, opacity in fills)
    # The link shows the same in a browser that knows nothing.
    other = fresh(tmp_path / "other")
    try:
        other.get(browser.current_url)
        settled(other, lambda b: "unexplained" in words(b))
        assert query(other) == after
        head = "[...document.querySelectorAll('h2, h3')].map(h => h.innerText)"
        assert other.execute_script(f"return {head}") == browser.execute_script(f"return {head}")
    finally:
        other.quit()
    browser.back()
    settled(browser, lambda b: query(b) == before)
    assert words(browser) != shown


def test_every_number_of_a_map_stands_out_from_its_cell():
    from probekit.results.maps import colour_at, ink_on

    for i in range(-60, 201):
        assert contrast(colour_at(i / 100), ink_on(i / 100)) >= 4.5, i


def test_every_tab_has_a_title_of_its_own(browser, port):
    titles = []
    for path in ("", "story?run=first", "map?run=first", "map?run=first&tab=layers", "trust?run=second"):
        go(browser, port, path)
        settled(browser, lambda b: b.title.endswith("leakboard"))
        titles.append(browser.title)
    assert titles == ["Runs · leakboard", "Story · first · leakboard", "Map · first · leakboard",
                      "Layer curves · first · leakboard", "Trust · second · leakboard"]  # fmt: skip


def test_from_the_list_a_click_opens_and_two_ticks_compare(browser, port):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    def at(x: int, row: int) -> None:
        grid = browser.find_element(By.CSS_SELECTOR, "[data-testid=stDataFrame]")
        left, top = x - grid.rect["width"] / 2, 35 * (row + 1.5) - grid.rect["height"] / 2
        ActionChains(browser).move_to_element_with_offset(grid, int(left), int(top)).pause(0.3).click().perform()

    go(browser, port, "")
    at(80, 0)
    settled(browser, lambda b: "/story" in b.current_url)
    assert query(browser)["run"] == "rows"
    browser.back()
    settled(browser, lambda b: "/story" not in b.current_url and "A click opens a run" in words(b))
    at(16, 2)
    settled(browser)
    at(16, 3)
    settled(browser, lambda b: "/compare" in b.current_url and "cells of both" in words(b))
    told = query(browser)
    assert (told["run"], told["against"]) == ("second", "first")


@pytest.mark.parametrize(
    ("asked", "run", "page", "answer"),
    [
        ("Where does it leak?", "first", "/map", "unexplained"),
        ("Is it used?", "first", "/map", "Does the model run on what can be read?"),
        ("On which examples?", "rows", "/examples", "bits missed"),
        ("Can I trust it?", "first", "/trust", "What may be claimed"),
        ("Is it better than another run?", "second", "/compare", "cells of both"),
    ],
)
def test_each_question_is_answered_one_click_from_the_story(browser, port, asked, run, page, answer):
    from selenium.webdriver.common.by import By

    go(browser, port, f"story?run={run}")
    steps = browser.execute_script("return history.length")
    links = browser.find_elements(By.CSS_SELECTOR, "[data-testid=stPageLink-NavLink]")
    next(link for link in links if asked in link.text).click()
    settled(browser, lambda b: page in b.current_url and answer in b.execute_script(
        "return document.querySelector('[data-testid=stMain]').textContent"))  # fmt: skip
    assert query(browser)["run"] == run
    assert browser.execute_script("return history.length") == steps + 1


def test_names_are_neither_links_nor_markup(browser, port):
    for path in ("story?run=nasty", "map?run=nasty", "map?run=nasty&tab=layers"):
        go(browser, port, path)
        links = browser.execute_script("return [...document.querySelectorAll('a')].map(a => a.href)")
        svg = browser.execute_script("return [...document.querySelectorAll('svg a')].length")
        assert svg == 0 and not [link for link in links if "example.org" in link]
    assert "<a href" in browser.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot .gtitle-subtitle')].map(t => t.textContent).join()"
    )


def test_no_request_leaves_the_machine(browser, port):
    browser.get_log("performance")
    for path in ("", "story?run=first", "map?run=first&tab=causal", "examples?run=rows"):
        go(browser, port, path)
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            asked.add(message["params"]["url"])
    known = {url for url in asked if urlsplit(url).netloc == f"127.0.0.1:{port}" or url.startswith(("data:", "blob:"))}
    assert len(known) > 10 and asked == known


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/map", "/_stcore/health", "/_stcore/host-config"])
def test_a_stranger_is_refused_over_http(port, path, headers, status):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert answer.status == status
    if status == 200:
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    connection.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "http://localhost:1"])
def test_a_stranger_gets_no_web_socket(port, origin):
    for told, opened in ((origin, False), (f"http://127.0.0.1:{port}", True)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/_stcore/stream", headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Origin": told,
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})  # fmt: skip
        assert (connection.getresponse().status == 101) is opened
        connection.close()


OVERLAPS = """
const out = [];
for (const plot of document.querySelectorAll('.js-plotly-plot')) {
  const slanted = t => /rotate\\(-50/.test(t.getAttribute('transform') || '');
  const texts = [...plot.querySelectorAll('svg text')].filter(t => t.textContent.trim() && !slanted(t));
  const boxes = [...texts, ...plot.querySelectorAll('.modebar-btn')]
    .map(t => [t.textContent || 'button', t.getBoundingClientRect()]).filter(b => b[1].width > 0 && b[1].height > 0);
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 2 && y > 4) out.push([boxes[i][0], boxes[j][0]]);
  }
  const drag = plot.querySelector('.nsewdrag');
  if (drag && drag.getBoundingClientRect().height < 150) out.push(['low plot', drag.getBoundingClientRect().height]);
}
const wide = document.documentElement.scrollWidth;
if (wide > window.innerWidth + 1) out.push(['wider than the window', wide]);
return out;
"""


@pytest.mark.parametrize(
    "path", ["story?run=first", "map?run=first", "map?run=first&tab=layers", "map?run=first&tab=transfer",
             "map?run=first&tab=decomposition", "map?run=first&tab=causal", "examples?run=rows",
             "compare?run=second&against=first"],
)  # fmt: skip
def test_nothing_overlaps_at_800_pixels(browser, port, path):
    size = browser.get_window_size()
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 800, "height": 1400, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    try:
        go(browser, port, path)
        settled(browser, lambda b: b.execute_script("return document.querySelectorAll('.js-plotly-plot').length"))
        time.sleep(1)
        assert browser.execute_script(OVERLAPS) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(size["width"], size["height"])


CONTRAST = """
const parse = s => { const m = (s || '').match(/rgba?\\(([^)]+)\\)/); if (!m) return null;
  const p = m[1].split(/[ ,\\/]+/).map(Number); return [p[0], p[1], p[2], p.length > 3 ? p[3] : 1]; };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
const lum = c => { const f = x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; };
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
const app = document.querySelector('[data-testid=stApp]');
const ground = e => { const layers = [parse(getComputedStyle(app).backgroundColor)], up = [];
  for (let x = e; x; x = x.parentElement) up.unshift(parse(getComputedStyle(x).backgroundColor));
  return [...layers, ...up.filter(c => c && c[3] > 0)].reduce((below, c) => over(c, below)); };
const out = [], main = document.querySelector('[data-testid=stMain]');
const walk = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
for (let n = walk.nextNode(); n; n = walk.nextNode()) {
  const e = n.parentElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  if (!n.textContent.trim() || e.closest('svg') || s.visibility === 'hidden' || r.width < 2 || r.height < 2) continue;
  let seen = 1; for (let x = e; x; x = x.parentElement) seen *= +getComputedStyle(x).opacity;
  const c = parse(s.color), b = ground(e); if (!c || seen === 0) continue;
  const [x, y] = [lum(over([c[0], c[1], c[2], c[3] * seen], b)), lum(b)];
  const ratio = (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
  if (ratio < 4.5) out.push([ratio.toFixed(2), n.textContent.trim().slice(0, 60)]);
}
return out;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(browser, port, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        for path in ("", "story?run=first", "map?run=first&tab=layers", "examples?run=rows", "trust?run=first"):
            go(browser, port, path)
            assert browser.execute_script(CONTRAST) == [], path
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_run_that_is_measured_moves_on_without_a_reload(browser, port, root):
    made = records(3, domains=("random",), behaviours=BEHAVIOURS[:1])
    writer = RunWriter.open(root, "busy", {"name": "busy"}, 3)
    try:
        writer.write_cell("a", made[:40], [], seconds=1.0)
        writer.beat(every=0.0)  # as a job does every few seconds
        go(browser, port, "")
        settled(browser, lambda b: "busy is being measured: 1 of 3 cells" in words(b))
        browser.execute_script("window.stillHere = true")
        writer.write_cell("b", made[40:], [], seconds=1.0)
        writer.beat(every=0.0)
        settled(browser, lambda b: "busy is being measured: 2 of 3 cells" in words(b))
        assert browser.execute_script("return window.stillHere")
        writer.interrupt()
        settled(browser, lambda b: "being measured" not in words(b))
    finally:
        writer.close()
        shutil.rmtree(root / "busy")
