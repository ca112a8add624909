"""The site that `make site` builds: its files, and what a real browser shows of them."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import pytest
import websocket
from bs4 import BeautifulSoup
from notebook_files import LESSONS, NOTEBOOKS, SOLUTIONS, load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium and no Chrome")
pages = load(NOTEBOOKS / "pages.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pages.build(folder)
    return folder


@pytest.fixture(scope="module")
def soups(site):
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}


def test_every_lesson_and_its_solutions_are_pages_and_the_menu_leads_to_the_rest(site, soups):
    for path in [*LESSONS, *SOLUTIONS]:
        assert (site / path.relative_to(NOTEBOOKS.parent).with_suffix(".html")) in soups
    front = soups[site / "index.html"]
    assert len(front.select(".card")) == len(LESSONS) and len(front.select("header nav a")) == len(pages.MENU)
    assert front.select_one(".begin a")["href"] == f"notebooks/{LESSONS[0].stem}.html"


def test_one_gets_from_each_lesson_to_the_next_and_back_and_to_colab(site, soups):
    names = [f"{path.stem}.html" for path in LESSONS]
    lessons = [soups[site / "notebooks" / name] for name in names]
    assert [page.select_one('[rel="next"]')["href"] for page in lessons[:-1]] == names[1:]
    assert [page.select_one('[rel="prev"]')["href"] for page in lessons[1:]] == names[:-1]
    assert all(page.select_one('a.badge[href^="https://colab.research.google.com/"]') for page in lessons)


def test_every_heading_can_be_linked_to_and_every_link_and_anchor_resolves(site, soups):
    names = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in soups.items()}
    for path, page in soups.items():
        assert len(names[path]) == len(page.find_all(id=True)), f"{path.name}: a name twice"
        assert all(heading.get("id") for heading in page.select("main h2, main h3, main h4") if not heading.a), path
        links = [tag.get("href") or tag.get("src") for tag in page.select("[href], [src]")]
        for to in (urlsplit(link) for link in links if not urlsplit(link).scheme):
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            resolves = target.is_file() and (not to.fragment or to.fragment in names[target])
            assert resolves, f"{path.name}: {to.geturl()}"


def test_nothing_is_loaded_from_another_host(site, soups):
    for path, page in soups.items():
        loaded = [tag["src"] for tag in page.find_all(src=True)]
        loaded += [tag["href"] for tag in page.find_all("link")]
        assert [to for to in loaded if urlsplit(to).scheme not in ("", "data") or urlsplit(to).netloc] == [], path.name
    sheets = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert "@import" not in sheets and re.findall(r"url\((?![\"']?data:).*", sheets) == []


def test_every_image_has_an_alternative_text_that_says_what_to_see(soups):
    images = [(path.name, image.get("alt", "")) for path, page in soups.items() for image in page.find_all("img")]
    assert images and [(name, text) for name, text in images if len(text.split()) < 5] == []


class Page:
    """A tab of a headless browser, by the DevTools protocol."""

    def __init__(self, port: int) -> None:
        request = Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        address = json.load(urlopen(request, timeout=PATIENCE))["webSocketDebuggerUrl"]
        self.socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict:
        """Call a method and return its result, if no navigation cuts it off; `events` keeps what happens."""
        self.socket.send(json.dumps({"id": 1, "method": method, "params": params}))
        while "id" not in (message := json.loads(self.socket.recv())):
            self.events.append(message)
        return message.get("result", {})

    def run(self, script: str) -> object:
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result.get("result", {}).get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def wait_for(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    def show_at(self, width: int, scheme: str = "light", height: int = 844) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def faults(self) -> list[str]:
        """Return what went wrong, and what was asked of another host."""
        bad, found = ("error", "warning"), []
        for method, params in ((event["method"], event["params"]) for event in self.events):
            if params.get("type") in bad or params.get("entry", {}).get("level") in bad or method.endswith("Thrown"):
                found.append(json.dumps(params))
            url = params["request"]["url"] if method == "Network.requestWillBeSent" else "data:"
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:")):
                found.append(url)
        return found


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on this machine, in a folder, as GitHub Pages has it."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{site.name}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(tmp_path):
    """A new tab of a browser of its own, with no sandbox, which a container does not allow."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    browser = subprocess.Popen([*command, "--remote-debugging-port=0", "about:blank"], stderr=subprocess.DEVNULL)
    try:
        deadline, said = time.monotonic() + PATIENCE, tmp_path / "DevToolsActivePort"
        while not (said.exists() and said.read_text().strip()):
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.1)
        tab = Page(int(said.read_text().split()[0]))
        yield tab
        assert tab.faults() == []
    finally:
        browser.terminate()
        browser.wait(PATIENCE)


@in_a_browser
def test_search_finds_hyperband_in_lesson_05_and_leads_there(page, served):
    page.open(f"{served}/index.html")
    page.wait_for("document.querySelector('pagefind-modal-trigger button')")
    page.run("document.querySelector('pagefind-modal-trigger button').click()")
    page.run("""{ const box = document.querySelector('pagefind-modal input'); box.value = 'Hyperband';
                 box.dispatchEvent(new Event('input', {bubbles: true})); }""")
    link = "document.querySelector('pagefind-results a[href*=\"/notebooks/05_\"]')"
    page.wait_for(link)
    page.run(f"{link}.click()")
    page.wait_for("location.pathname.includes('/notebooks/05_') && document.readyState == 'complete'")
    assert "Hyperband" in page.run("document.querySelector('main').innerText")


#: Texts whose contrast with what lies behind them is below 4.5, WCAG's bound, in the colours that are shown.
TOO_FAINT = """(() => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * linear(c[i] / 255), 0.05);
  const solid = c => c.length < 4 || c[3] == 1;
  const ground = e => parse(getComputedStyle(e).backgroundColor);
  const behind = e => !e ? [255, 255, 255] : solid(ground(e)) ? ground(e) : behind(e.parentElement);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    if (Math.max(a, b) / Math.min(a, b) < 4.5) found.push(node.data.trim().slice(0, 60));
  }
  return found;
})()"""


@in_a_browser
def test_no_page_is_wider_than_a_phone_or_too_faint_or_asks_another_host(page, site, served):
    for path in sorted(site.rglob("*.html")):
        page.show_at(390)
        page.open(f"{served}/{path.relative_to(site).as_posix()}")
        assert page.run("document.documentElement.scrollWidth") <= 390, path.name
        schemes = ("light", "dark") if path.parent.name != "solutions" else ("light",)  # they have the lessons' colours
        for scheme in () if path.stem.endswith("-slides") else schemes:
            page.show_at(1280, scheme)
            assert page.run(TOO_FAINT) == [], f"{path.name}, {scheme}"
        assert page.faults() == [], path.name


#: Slides of which something does not fit, or is a figure too small to be read at the back of a room.
CRAMPED = """[...document.querySelectorAll("section")].filter(slide => {
  const body = slide.querySelector(".body"), parts = [body, ...body.querySelectorAll("div, pre, p, ul, ol")];
  return parts.some(e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)
    || [...body.querySelectorAll("img")].some(image => image.clientHeight < innerHeight / 3);
}).map(slide => slide.querySelector("footer span").innerText)"""


@in_a_browser
def test_slides_hold_every_figure_of_their_lesson_fit_the_wall_and_turn_by_keys(page, soups, site, served):
    for lesson in LESSONS:
        path = site / "notebooks" / f"{lesson.stem}-slides.html"
        shown, there = (soups[each].select("main img") for each in (path, path.with_name(f"{lesson.stem}.html")))
        assert [image["alt"] for image in shown] == [image["alt"] for image in there]
        page.open(f"{served}/notebooks/{path.name}")
        for width, height in ((1280, 720), (1024, 768), (1920, 1080)):
            page.show_at(width, height=height)
            assert page.run(CRAMPED) == [], f"{path.name} at {width} x {height}"
    n_slides = [len(soups[site / "notebooks" / f"{lesson.stem}-slides.html"].select("section")) for lesson in LESSONS]
    assert 45 < sum(n_slides) / len(n_slides) < 55, "notebooks/README.md says: about fifty"
    for key, slide in (("PageDown", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        page.wait_for(f"Math.abs(scrollY - {slide} * innerHeight) < 2")
