"""`make test-browser`: the pages of `make html` under axe, and every lesson run in JupyterLab, in a real Chromium.

It wants chromium, chromedriver and, for axe, npm (Debian: chromium chromium-driver npm); what is missing is skipped and named.
Lessons run on `shapes`; pictures of what was seen are in build/screenshots.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pages
import pytest
from lessons import LESSONS
from nbconvert.preprocessors import ClearOutputPreprocessor
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

AXE = "4.14.1"
BUILD = pages.ROOT / "build"
FLAGS = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync".split()
NOISE = ["favicon", "/api/kernels", "WebSocket"]  # no icon is served; a kernel that is closed drops its connection
NOISE += ["colab-badge.svg", "open-in-kaggle.svg"]  # pictures on other servers: there may be no internet


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is missing")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
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
        subprocess.run([shutil.which("npm"), "pack", "--silent", f"axe-core@{AXE}"], cwd=script.parents[1], check=True)
        shutil.unpack_archive(script.parents[1] / f"axe-core-{AXE}.tgz", script.parents[1], filter="data")
    return script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site():
    pages.build()


def severe(browser) -> list[str]:
    """What the console called an error, JupyterLab's own noise aside."""
    messages = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in messages if not any(noise in message for noise in NOISE)]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("source", pages.sources(), ids=pages.address)
def test_pages_pass_axe_and_fit(browser, axe, site, source, width):
    """Opened as a file: no serious or critical violation, and nothing to scroll sideways but what scrolls inside."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((pages.SITE / pages.address(source)).as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.save_screenshot(str(BUILD / "screenshots" / f"{pages.address(source).replace('/', '-')}-{width}.png"))
    browser.execute_script(axe)
    result = browser.execute_async_script("const done = arguments[0]; axe.run().then(done, error => done({error: `${error}`}))")
    assert result["passes"]
    bad = [(v["id"], v["nodes"][0]["html"][:200]) for v in result["violations"] if v["impact"] in ("serious", "critical")]
    assert not bad and not severe(browser)


@pytest.fixture(scope="module")
def lab(browser):
    """A JupyterLab on a copy of the course whose lessons have not been run; its address."""
    course = BUILD / "browser"
    shutil.rmtree(course, ignore_errors=True)
    ignore = shutil.ignore_patterns("build", "data", ".*", "__pycache__")
    shutil.copytree(pages.ROOT, course / "resnet-course", ignore=ignore)
    for path in (course / "resnet-course" / "notebooks").glob("*.ipynb"):
        notebook, _ = ClearOutputPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
        nbformat.write(notebook, path)
    settings = course / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}', encoding="utf-8")  # or a question about news lies over the page
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={course / 'resnet-course'}"]
    ours = {"COURSE_DATA": "shapes", "JUPYTER_CONFIG_DIR": str(course), "JUPYTERLAB_SETTINGS_DIR": str(course / "settings")}
    ours["JUPYTERLAB_WORKSPACES_DIR"] = str(course / "workspaces")
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_UNATTENDED"} | ours
    with open(BUILD / "browser.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *options], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(60):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


SEEN = """
const book = document.querySelector('.jp-NotebookPanel');
const shown = (query) => [...book.querySelectorAll(query)].filter(element => element.getClientRects().length);
return {prompts: shown('.jp-CodeCell .jp-InputPrompt').map(prompt => prompt.textContent.trim()),
        errors: shown('[data-mime-type="application/vnd.jupyter.error"]').map(error => error.innerText.slice(-300)),
        figures: shown('.jp-OutputArea img').filter(image => image.naturalWidth > 50).map(image => image.src.slice(-400)),
        formulas: shown('mjx-container').length, unclear: shown('mjx-merror').length,
        bars: shown('.jp-OutputArea pre').filter(text => text.textContent.includes('%|')).length}"""
SHOW_BAR = """[...document.querySelectorAll('.jp-OutputArea pre')].filter(text => text.textContent.includes('%|'))
.forEach(bar => bar.scrollIntoView({block: 'center'}))"""
CONTROLS = {".jupyter-widgets [role=slider]": Keys.ARROW_RIGHT, ".jupyter-widgets input[type=checkbox]": Keys.SPACE}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_in_jupyterlab(browser, lab, path):
    """Run All Cells, wait for the last, look; a slider or tick box moved by keyboard draws another figure."""
    picture = str(BUILD / "screenshots" / f"jupyterlab-{path.stem}-{{}}.png")
    size = {"width": 1300, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(lab.format(path.name))
    waiting = WebDriverWait(browser, 120)
    waiting.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-Notebook-ExecutionIndicator[data-status=idle]"))
    waiting.until(lambda b: [m for m in b.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item") if m.text == "Run"])[0].click()
    waiting.until(lambda b: b.find_element(By.CSS_SELECTOR, 'li[data-command="runmenu:run-all"]')).click()
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
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
    assert seen["figures"] and seen["formulas"] and not seen["unclear"], {**seen, "figures": len(seen["figures"])}
    if any("live_curves(" in cell for cell in cells):  # bars that run, and a figure that was redrawn
        assert bars and ever > set(seen["figures"])
    found = {key: browser.find_elements(By.CSS_SELECTOR, query)[:1] for query, key in CONTROLS.items()}
    controls = [(control, key) for key, first in found.items() for control in first]
    assert bool(controls) == any("plotting.explore(" in cell for cell in cells)
    for control, key in controls:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", control)
        before = browser.execute_script(SEEN)["figures"]
        control.send_keys(key)
        waiting.until(lambda b, before=before: b.execute_script(SEEN)["figures"] != before)
        browser.save_screenshot(picture.format(control.get_attribute("role") or "box"))
    assert not severe(browser)
