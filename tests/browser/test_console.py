"""The console in a real browser, beside a real pipeline: every page in both themes, clicks, live progress, actions, no secrets."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from selenium.webdriver import ActionChains

from export_service.console.actions import JOB_ACTIONS, LETTER_ACTIONS
from export_service.devstack.stack import Stack
from tests.browser.chromium import ABSENT, PHONE, WIDE, Browser, chromium
from tests.browser.scene import CANARY, TOKEN, Scene, prepare
from tests.e2e.conftest import FileServer, World

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(ABSENT is not None, reason=f"no Chromium: {ABSENT}")]


@pytest.fixture(scope="module")
def scene(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    files = FileServer()
    world = World(stack, tmp_path_factory.mktemp("console"), files)
    try:
        yield prepare(world)
    finally:
        world.close()
        files.close()


@pytest.fixture(scope="module")
def browser(scene: Scene) -> Iterator[Browser]:
    with chromium(scene.address) as found:
        yield found


@pytest.fixture(autouse=True)
def says_nothing(browser: Browser) -> Iterator[None]:
    """No script failed, nothing was refused by the page's policy, nothing was not found."""
    browser.said()
    browser.look("light", WIDE)
    yield
    # What a test makes fail on purpose it has taken out of the log.
    assert browser.said() == []


def pages(scene: Scene) -> dict[str, str]:
    return {
        "overview": "/",
        "jobs": "/jobs",
        "job": f"/jobs/{scene.failed}",
        "topics": "/topics",
        "topic": f"/topics/results?job={scene.failed}",
        "workers": "/workers",
        "dead-letters": "/dead-letters?state=all",
    }


def test_every_page_is_accessible_in_both_themes_and_fits_a_phone(scene: Scene, browser: Browser, tmp_path: Path) -> None:
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    found: dict[str, object] = {}
    for name, path in pages(scene).items():
        browser.go(path)
        browser.loaded()
        for opened in browser.driver.find_elements("css selector", "details:first-of-type summary"):
            opened.click()
        browser.driver.execute_script(axe)
        for theme in ("light", "dark"):
            browser.look(theme, WIDE)
            browser.picture(tmp_path / f"{name}-{theme}.png")
            rules = {} if theme == "light" else {"runOnly": ["color-contrast"]}
            result = browser.driver.execute_async_script("axe.run(arguments[0]).then(arguments[1])", rules)
            grave = [each for each in result["violations"] if each["impact"] in ("serious", "critical")]
            found |= {f"{name}, {theme}: {each['id']}": [node["html"] for node in each["nodes"][:3]] for each in grave}
        browser.look("light", PHONE)
        browser.picture(tmp_path / f"{name}-phone.png")
        wide = browser.script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than a phone"
    assert found == {}
    assert len(list(tmp_path.iterdir())) == 21


def test_one_clicks_from_the_flow_to_the_record_behind_a_count(scene: Scene, browser: Browser) -> None:
    browser.go("/")
    browser.loaded()
    browser.press("nav a[href='/jobs']")
    browser.find("#user").send_keys("maria")
    browser.find("#status option[value=unsuccessful]").click()
    browser.press(".filter button")
    browser.until(lambda: "user=maria&status=unsuccessful" in browser.driver.current_url, "the list is filtered")
    assert (scene.failed in browser.text, scene.good in browser.text) == (True, False)
    browser.press(link=scene.failed)
    browser.loaded()
    assert "HttpNotFound" in browser.text
    assert "HttpForbidden" in browser.text
    assert "failed: 45" in browser.text, "one cell a task"
    browser.press(".scroll a.place")
    browser.loaded()
    assert re.search(r'"outcome": "(SUCCEEDED|FAILED)"', browser.text), "the record is open"
    browser.press("nav a[href='/topics']")
    browser.press(link="snapshots")
    browser.find("#job").send_keys(scene.good)
    browser.press(".filter button")
    browser.until(lambda: "JobSnapshot" in browser.text, "the job's snapshots are shown")
    browser.press("nav a[href='/workers']")
    browser.loaded()
    browser.until(lambda: "tasks:1" in browser.text and "Stable" in browser.text, "the groups' members and their partitions")
    browser.press("nav a[href='/dead-letters']")
    assert "jobId" in browser.text


def test_it_is_reachable_by_keyboard_and_a_refresh_keeps_the_focus(scene: Scene, browser: Browser) -> None:
    browser.go("/jobs")
    browser.loaded()
    body = browser.find("body")
    body.send_keys("\ue004")  # Tab
    assert browser.script("return document.activeElement.textContent") == "To the content"
    browser.script(f"document.querySelector('a[href=\"/jobs/{scene.good}\"]').focus()")
    before = browser.script("document.activeElement.marked = true; return document.activeElement.getAttribute('href')")
    scene.send("ada", "focus", ["focus.txt"])
    browser.until(lambda: not browser.script("return document.activeElement.marked"), "the list was replaced")
    assert browser.script("return document.activeElement.getAttribute('href')") == before


def test_what_is_pressed_is_not_replaced_meanwhile(scene: Scene, browser: Browser) -> None:
    browser.go("/jobs")
    browser.loaded()
    pressed = ActionChains(browser.driver).click_and_hold(browser.link(scene.good))
    pressed.perform()
    job_id = scene.send("ada", "pressed", ["pressed.txt"])
    browser.until(lambda: job_id in browser.script("return waits.get(live) || ''"), "the page has been sent the new list")
    assert job_id not in browser.text
    ActionChains(browser.driver).release().perform()
    browser.until(lambda: browser.driver.current_url.endswith(scene.good), "the click led where it was meant to")


def test_progress_is_live_and_a_console_that_comes_back_is_found_again(scene: Scene, browser: Browser) -> None:
    browser.go(f"/jobs/{scene.run()}")
    browser.loaded()
    assert "Running" in browser.text
    browser.script("window.marked = true")
    child = scene.world.workers[-1]
    child.terminate()
    assert child.wait(10) == 0
    browser.until(lambda: browser.find("#state").text == "connecting again", "the page says that it is not live")
    scene.console(urlsplit(scene.address).port or 0)
    browser.until(lambda: browser.find("#state").text == "live", "the page is live again", 30)
    browser.until(lambda: "Running" in browser.text, "and shows the job again")
    browser.said()  # the connection that was lost
    scene.world.files.gate.set()
    browser.until(lambda: "Completed" in browser.text, "its end is shown")
    browser.until(lambda: "succeeded: 60" in browser.text, "and so are its tasks", 30)
    assert browser.script("return window.marked"), "the page was not loaded again"


def post(scene: Scene, path: str, form: bytes = b"", **headers: str) -> int:
    request = urllib.request.Request(scene.address.rstrip("/") + path, form, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_who_has_the_token_may_redrive_and_others_may_not(scene: Scene, browser: Browser) -> None:
    path = f"/jobs/{scene.failed}/do/redrive"
    assert post(scene, path) == 403
    assert post(scene, "/sign-in", b"token=not-the-token-of-this-test") == 403
    assert post(scene, "/sign-in", f"token={TOKEN}".encode(), Origin="http://elsewhere.example") == 403
    browser.go(f"/jobs/{scene.failed}")
    assert "Run it again" not in browser.text
    browser.press(link="Sign in")
    browser.find("#token").send_keys(TOKEN)
    browser.press("main button")
    cookie = browser.driver.get_cookie("export-console")
    assert cookie is not None
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    held = {"Cookie": f"export-console={cookie['value']}"}
    assert post(scene, path, b"csrf=guessed", **held) == 403, "a form of somebody else's"

    scene.world.files.missing, scene.world.files.answers = set(), {}
    browser.go(f"/jobs/{scene.failed}")
    browser.press(link="Run it again")
    assert "45 of 400 run" in browser.text
    browser.find("#why").send_keys("the source is well again")
    browser.press("button.danger")
    browser.until(lambda: "Runs as attempt 2" in browser.text, "it says what was done")
    browser.until(lambda: "Completed" in browser.text and "attempt 2" in browser.text, "the second attempt ends well", 40)
    browser.press(link="Send its completion")
    assert "nobody waits" in browser.text, "the plan says why there is nothing to do"
    assert not browser.driver.find_elements("css selector", "button.danger")

    def nothing_to_rebuild() -> bool:
        browser.go(f"/jobs/{scene.failed}/do/rebuild")
        return "table entries and item are what the events say" in browser.text

    browser.until(nothing_to_rebuild, "the tally has committed what it has counted, and the plan finds nothing to put right")

    browser.go(f"/jobs/{scene.run()}")
    browser.until(lambda: "Running" in browser.text, "it runs")
    browser.press(link="Cancel the job")
    browser.find("#why").send_keys("a test of ours")
    browser.press("button.danger")
    browser.until(lambda: "a test of ours" in browser.text and "Cancelled" in browser.text, "it has ended")
    scene.world.files.gate.set()

    browser.go("/dead-letters")
    browser.find("summary").click()
    browser.press(link="Put away")
    browser.press("button.danger")
    browser.until(lambda: "was put away" in browser.text, "it says so")
    browser.press("header form button")
    assert "Sign in" in browser.text


def test_no_page_has_a_secret(scene: Scene) -> None:
    token = scene.world.attempt(scene.good, 1)["taskToken"]
    seen = ""
    jobs = [f"/jobs/{job}{part}" for job in (scene.good, scene.failed) for part in ("?whole=1", "/history", "/grid")]
    names = (
        "requests",
        "tasks",
        "results",
        "snapshots",
        "completions",
        "callbacks",
        "dead-letters",
        "operations",
        "jobs-changelog",
    )
    topics = [f"/topics/{name}{query}" for name in names for query in ("", f"?job={scene.good}", f"?job={scene.failed}")]
    plans = [f"/jobs/{scene.failed}/do/{name}" for name in JOB_ACTIONS] + [
        f"/dead-letters/0:0/do/{name}" for name in LETTER_ACTIONS
    ]
    signed_in = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    base = scene.address.rstrip("/")
    signed_in.open(f"{base}/sign-in", f"token={TOKEN}".encode()).close()
    for path in (*pages(scene).values(), *jobs, *topics, *plans):
        with signed_in.open(base + path) as answer:
            seen += answer.read().decode()
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'"), path
    for path in pages(scene).values():
        if not path.startswith("/dead-letters"):
            with signed_in.open(f"{base}/events?of={quote(path.partition('?')[0])}") as events:
                begun = len(seen)
                while not ("data: " in seen[begun:] and seen.endswith("\n\n")):
                    seen += events.readline().decode()
    for secret in (token, CANARY, "thisisacanarytoken", TOKEN):
        assert secret not in seen
    assert "TaskBatch" in seen, "records were looked at"
    assert seen.count("What would be done") == len(plans)
    assert seen.count("data: ") > 50, "events were"
    assert json.dumps("(sealed)") in seen.replace("&#34;", '"'), "a request with a signed URL was"
    log = (scene.world.folder / f"worker-{len(scene.world.workers) - 1}.log").read_text()
    assert "Traceback" not in log
