"""`make test-browser`: the site of `make html` under axe, and every lesson in JupyterLab.

In a real Chromium: it needs chromium, chromedriver and, for axe, npm (Debian: chromium
chromium-driver npm); what is missing is skipped and named. Lessons run on `shapes`; screenshots are
in build/screenshots.
"""

import functools
import http.server
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import nbformat
import pytest
from nbconvert.preprocessors import ClearOutputPreprocessor
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tools.badges import notebooks
from tools.run_lessons import LESSONS, ROOT

AXE = "4.14.1"
BUILD = ROOT / "build"
SITE = BUILD / "site"
PAGES = ["README", "CONTRIBUTING", "results/README", "notebooks/TEACHING", "search"]
PAGES += [f"docs/{path.stem}" for path in sorted((ROOT / "docs").glob("*.md"))]
PAGES += [path.relative_to(ROOT).with_suffix("").as_posix() for path in notebooks()]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-sync"
)
# no icon is served; a first visit has no theme yet; a kernel that is closed drops its connection;
# there may be no internet
NOISE = ["favicon", "Got invalid theme mode", "/api/kernels", "WebSocket", "colab-badge.svg"]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is missing")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        chrome.set_script_timeout(300)  # axe looks at every element of a long page
        (BUILD / "screenshots").mkdir(parents=True, exist_ok=True)
        yield chrome


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's program, fetched once by npm, which verifies it."""
    script = BUILD / f"axe-{AXE}" / "package" / "axe.min.js"
    if not script.is_file():
        if not shutil.which("npm"):
            pytest.skip("npm is missing: axe-core cannot be fetched")
        script.parents[1].mkdir(parents=True, exist_ok=True)
        folder = script.parents[1]
        command = [shutil.which("npm"), "pack", "--silent", f"axe-core@{AXE}"]
        subprocess.run(command, cwd=folder, check=True)
        shutil.unpack_archive(folder / f"axe-core-{AXE}.tgz", folder, filter="data")
    return script.read_text(encoding="utf-8")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address at which the site is served."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "-c", "docs", "-d", "build/doctrees"]
    subprocess.run([*command, ".", str(SITE)], cwd=ROOT, check=True)
    handler = functools.partial(QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def severe(browser) -> list[str]:
    """What the console called an error, JupyterLab's own noise aside."""
    entries = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [entry["message"] for entry in entries]
    return [message for message in messages if not any(noise in message for noise in NOISE)]


# Two rules are left out, which the markup of the theme and of Sphinx breaks: buttons whose name is
# not their text, and signatures (a list of definitions) that hold more than terms.
RUN_AXE = """const done = arguments[0];
const off = {'label-content-name-mismatch': {enabled: false}, 'definition-list': {enabled: false}};
axe.run({rules: off}).then(done, error => done({error: `${error}`}))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES)
def test_pages_pass_axe_and_fit(browser, axe, site, page, width, theme):
    """Served as on GitHub Pages: no serious violation, and nothing wider than the window."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"{site}/{page}.html")
    set_theme = f"document.documentElement.dataset.theme = '{theme}'"
    browser.execute_script(set_theme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    picture = BUILD / "screenshots" / f"{page.replace('/', '-')}-{width}-{theme}.png"
    browser.save_screenshot(str(picture))
    browser.execute_script(axe)
    result = browser.execute_async_script(RUN_AXE)
    assert result["passes"]
    bad = []
    for violation in result["violations"]:
        if violation["impact"] in ("serious", "critical"):
            bad.append((violation["id"], violation["nodes"][0]["html"][:200]))
    assert not bad and not severe(browser)


@pytest.fixture(scope="module")
def lab(browser):
    """A JupyterLab on a copy of the course whose lessons have not been run; its address."""
    folder = BUILD / "browser"
    course = folder / "resnet-course"
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("build", "data", "runs", ".*", "__pycache__")
    shutil.copytree(ROOT, course, ignore=ignore)
    for path in (course / "notebooks").glob("*.ipynb"):
        notebook, _ = ClearOutputPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
        for cell in notebook.cells:
            cell.metadata.pop("jupyter", None)  # a collapsed cell does not show its number
        nbformat.write(notebook, path)
    news = "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    (folder / news).parent.mkdir(parents=True)
    # or a question about news lies over the page
    (folder / news).write_text('{"fetchNews": "false"}', encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    options += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={course}"]
    options += [f"--IdentityProvider.token={token}"]
    target = (ROOT / "Makefile").read_text(encoding="utf-8").partition("jupyter lab ")[2]
    options += target.splitlines()[0].split()  # what `make lab` sets
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_UNATTENDED"}
    environment["COURSE_DATA"] = "shapes"
    environment["JUPYTER_CONFIG_DIR"] = str(folder)
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / "workspaces")
    command = [sys.executable, "-m", "jupyter", "lab", *options]
    with open(BUILD / "browser.log", "w") as log:
        server = subprocess.Popen(command, cwd=course, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(60):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(120)  # its kernels end first


SEEN = """
const book = document.querySelector('.jp-NotebookPanel');
const shown = (query) =>
    [...book.querySelectorAll(query)].filter(element => element.getClientRects().length);
return {
    prompts: shown('.jp-CodeCell .jp-InputPrompt').map(prompt => prompt.textContent.trim()),
    errors: shown('[data-mime-type="application/vnd.jupyter.error"]')
        .map(error => error.innerText.slice(-300)),
    figures: shown('.jp-OutputArea img').filter(image => image.naturalWidth > 50)
        .map(image => image.src.slice(-400)),
    formulas: shown('mjx-container').length,
    unclear: shown('mjx-merror').length,
    bars: shown('.jp-OutputArea pre').filter(text => text.textContent.includes('%|')).length}"""
SHOW_BAR = """[...document.querySelectorAll('.jp-OutputArea pre')]
.filter(text => text.textContent.includes('%|'))
.forEach(bar => bar.scrollIntoView({block: 'center'}))"""
CONTROLS = {
    ".jupyter-widgets [role=slider]": Keys.ARROW_RIGHT,
}
FOCUS = "arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()"
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
RUN_ALL = 'li[data-command="runmenu:run-all"]'


def test_make_lab_shows_readme_whose_links_open_lessons(browser, lab):
    browser.get(lab.format("README.md"))
    waiting = WebDriverWait(browser, 120)
    link = "//*[contains(@class, 'jp-MarkdownViewer')]//td/a[starts-with(., '01 ')]"
    waiting.until(lambda b: b.find_elements(By.XPATH, link))
    browser.save_screenshot(str(BUILD / "screenshots" / "jupyterlab-README.png"))
    browser.find_element(By.XPATH, link).click()
    waiting.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel .jp-CodeCell"))


def menu_called_run(browser) -> list:
    entries = browser.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item")
    return [entry for entry in entries if entry.text == "Run"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_in_jupyterlab(browser, lab, path):
    """Run All Cells, wait for the last, look.

    A slider that is moved by keyboard draws another figure.
    """
    picture = str(BUILD / "screenshots" / f"jupyterlab-{path.stem}-{{}}.png")
    size = {"width": 1300, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(lab.format(f"notebooks/{path.name}"))
    waiting = WebDriverWait(browser, 120)
    waiting.until(lambda b: b.find_elements(By.CSS_SELECTOR, IDLE))
    waiting.until(menu_called_run)[0].click()
    waiting.until(lambda b: b.find_element(By.CSS_SELECTOR, RUN_ALL)).click()
    notebook = nbformat.read(path, as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    expected = [f"[{number}]:" for number in range(1, 1 + len(cells))]
    ever, bars, end = set(), 0, time.monotonic() + 900
    while time.monotonic() < end:
        time.sleep(0.5)
        seen = browser.execute_script(SEEN)
        if seen["bars"] > bars:
            for _ in range(2):  # what comes into view changes its height, and the bar its place
                browser.execute_script(SHOW_BAR)
                time.sleep(0.2)
            browser.save_screenshot(picture.format("progress"))
        ever, bars = ever | set(seen["figures"]), max(bars, seen["bars"])
        if seen["prompts"] == expected or seen["errors"]:
            break
    browser.save_screenshot(picture.format("end"))
    assert seen["prompts"] == expected and not seen["errors"], (seen["errors"], seen["prompts"])
    assert seen["figures"] and seen["formulas"] and not seen["unclear"]
    if any("live_curves(" in cell for cell in cells):  # bars that run, and a figure redrawn
        assert bars and ever > set(seen["figures"])
    controls = []
    for query, key in CONTROLS.items():
        for control in browser.find_elements(By.CSS_SELECTOR, query)[:1]:
            controls.append((control, key))
    assert bool(controls) == any("plotting.explore(" in cell for cell in cells)
    for control, key in controls:
        browser.execute_script(FOCUS, control)
        before = browser.execute_script(SEEN)["figures"]
        control.send_keys(key)
        waiting.until(lambda b, before=before: b.execute_script(SEEN)["figures"] != before)
        browser.save_screenshot(picture.format(control.get_attribute("role") or "box"))
    assert not severe(browser)
