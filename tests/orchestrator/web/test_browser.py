"""The pages in a real browser: readable, live, by keyboard alone, and with nothing from another host."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.workspace import Workspace
from tests.orchestrator.web.browser import PICTURES_FOLDER, Server, running_chromium
from tests.orchestrator.web.conftest import MadeUp
from tests.orchestrator.web.history import ASKS, BROKEN, DONE, LIVE, STEP, fingerprint_of, make_history, put_log, train

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ALL: dict[str, Any] = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
CONTRAST: dict[str, Any] = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all that differs in dark
ALL_BUT_CONTRAST = {**ALL, "rules": {"color-contrast": {"enabled": False}}}  # the slow one, the same when narrow
PAGES = {
    "runs": "/runs",
    "needs-and-filter": "/runs?q=shapes",
    "nothing-fits": "/runs?q=no-such-run",
    "run-live": f"/runs/{LIVE}",
    "run-failed": f"/runs/{BROKEN}",
    "stage": f"/runs/{BROKEN}/stages/tokens",
    "training": f"/runs/{LIVE}/stages/model/training",
    "datasets": "/datasets",
    "dataset": "",  # its address has a fingerprint
    "cluster": "/cluster",
    "events": f"/events?run={DONE}",
    "questions": "/questions",
    "answer": "/questions/20260504-101500-diff",
    "step": f"/runs/{LIVE}/stages/model/steps/{STEP}",
    "log": f"/runs/{BROKEN}/logs/tokens-1-2.log",
    "shards": f"/runs/{BROKEN}/stages/tokens/shards",
    "denied": "/denied",
    "run-asks": f"/runs/{ASKS}",
    "gone": "/runs/no-such-run",
}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with running_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def history(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeUp]:
    root = tmp_path_factory.mktemp("web") / "illume"
    with Workspace.open(root=root, tracking_url="none") as workspace:
        made_up = MadeUp(workspace=workspace)
        make_history(made_up)
        yield made_up


@pytest.fixture(scope="module")
def server(history: MadeUp) -> Iterator[Server]:
    found = Server(root=history.workspace.root)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def page(browser: "Browser", server: Server) -> "Iterator[Page]":
    """A page of which everything that goes wrong or leaves this host is a failure of the test."""
    context = browser.new_context(base_url=server.url, viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(20_000)
    found = context.new_page()
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("console", lambda message: problems.append(message.text) if "Security Policy" in message.text else None)
    found.on("request", lambda request: _note_stranger(request.url, server.url, problems))
    yield found
    context.close()
    assert problems == []


def _note_stranger(url: str, own: str, problems: list[str]) -> None:
    if not url.startswith((own, "data:", "blob:")):
        problems.append(f"asked another host: {url}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get(PICTURES_FOLDER) or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_each_page_can_be_read_by_everybody_in_light_and_dark_wide_and_narrow(
    name: str, page: "Page", history: MadeUp, pictures: Path
) -> None:
    answer = page.goto(PAGES[name] or f"/datasets/{fingerprint_of(history, 'shapes', 'curated')}")
    assert answer is not None
    assert answer.status == (404 if name == "gone" else 200)
    if name == "training":
        page.wait_for_selector("[data-drawn]")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            if PICTURES_FOLDER in os.environ or (width, scheme) in ((1280, "light"), (390, "dark")):
                page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png", full_page=True)
            if width == 1280:
                assert violations(page, CONTRAST if scheme == "dark" else ALL) == []
        assert violations(page, ALL_BUT_CONTRAST) == []
    for width in (390, 620, 800, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than its window"


def violations(page: "Page", options: dict[str, Any]) -> list[str]:
    """What axe finds: rule, element and why."""
    from axe_playwright_python.sync_playwright import Axe

    response: dict[str, Any] = Axe().run(page, options={"resultTypes": ["violations"], **options}).response
    return [
        f"{found['id']}: {node['html'][:160]} ({node['failureSummary']})"
        for found in response["violations"]
        for node in found["nodes"]
    ]


def test_no_text_of_a_drawing_leaves_its_box(page: "Page") -> None:
    page.goto(f"/runs/{BROKEN}")
    outside = page.evaluate("""() => [...document.querySelectorAll('.dag-wide .stage')].filter((stage) => {
        const box = stage.querySelector('.box').getBoundingClientRect();
        const texts = [...stage.querySelectorAll('text')].map((text) => text.getBoundingClientRect());
        const overlap = (a, b) => a.bottom > b.top + 2 && b.bottom > a.top + 2;
        const isOver = texts.some((a, i) => texts.slice(i + 1).some((b) => overlap(a, b)));
        return isOver || texts.some((text) => text.right > box.right || text.bottom > box.bottom);
    }).map((stage) => stage.textContent)""")
    assert outside == []


def test_hostile_text_stays_text(page: "Page") -> None:
    page.goto(f"/runs/{BROKEN}")
    assert "<img src=" in page.inner_text("pre")
    assert page.query_selector("img") is None


def test_a_stage_that_ends_changes_the_graph_without_a_reload(page: "Page", history: MadeUp) -> None:
    page.goto(f"/runs/{LIVE}")
    page.wait_for_selector("#live[data-state=live]")
    page.evaluate("window.isSame = true; document.querySelector('#stage-model a').focus()")
    assert page.query_selector(".dag-wide [data-tie='stage:curated'].tone-made")
    assert page.query_selector(".dag-wide [data-tie='stage:evaluated'].tone-waiting")
    history.record(LIVE, "waited", {"for": "gpus"}, stage="evaluated")
    history.attempt(LIVE, "evaluated", recipe="shapes-large")
    page.wait_for_selector(".dag-wide [data-tie='stage:evaluated'].tone-running")
    assert page.evaluate("window.isSame") is True
    assert page.evaluate("document.activeElement.textContent") == "model"  # the focus stays where it was


def test_the_list_of_runs_shows_a_new_run_and_curves_grow(page: "Page", history: MadeUp) -> None:
    page.goto("/runs")
    page.wait_for_selector("#live[data-state=live]")
    history.start("20260504-111500-new000", recipe="fresh")
    page.wait_for_selector("text=20260504-111500-new000")
    history.end("20260504-111500-new000")
    page.goto(f"/runs/{LIVE}/stages/model/training")
    page.wait_for_selector("[data-drawn]")
    before = page.inner_text("[data-value='steps_per_s']")
    page.wait_for_selector("#live[data-state=live]")
    train(history, LIVE, steps=201)
    page.wait_for_function(
        "(async () => (await (await fetch(document.querySelector('[data-charts]').dataset.charts)).json())"
        ".charts[0].curves[0].samples.steps.length === 201)()"
    )
    assert before == "5"


def test_a_page_survives_the_death_of_the_server_and_misses_nothing(
    page: "Page", history: MadeUp, server: Server
) -> None:
    run_id = "20260504-121500-killed"
    history.start(run_id, recipe="killed")
    page.goto(f"/runs/{run_id}")
    page.wait_for_selector("#live[data-state=live]")
    page.evaluate("window.isSame = true")
    server.kill()
    page.wait_for_selector("#live[data-state=away]")
    assert "Reconnecting" in page.inner_text("#live")
    assert page.query_selector(".dag-wide [data-tie='stage:raw'].tone-waiting"), "what was known is still shown"
    history.commit(run_id, "raw", recipe="killed")
    server.start()
    page.wait_for_selector(".dag-wide [data-tie='stage:raw'].tone-made")
    page.wait_for_selector("#live[data-state=live]")
    assert page.evaluate("window.isSame") is True
    history.end(run_id)


def test_everything_can_be_reached_by_keyboard_alone(page: "Page") -> None:
    page.goto("/runs?recipe=shapes")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert DONE in page.inner_text("tr.is-current")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{DONE}")
    page.keyboard.press("g")
    page.keyboard.press("d")
    page.wait_for_url("**/datasets")
    page.goto(f"/runs/{BROKEN}/stages/tokens")
    page.keyboard.press("[")
    page.wait_for_url("**attempt=1")
    page.keyboard.press("]")
    page.wait_for_url("**attempt=2")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")


def test_pointing_at_a_stage_marks_its_row_and_edges(page: "Page") -> None:
    page.goto(f"/runs/{BROKEN}")
    page.hover(".dag-wide [data-tie='stage:curated']")
    assert page.query_selector("tr[data-tie='stage:curated'].is-tied")
    assert page.query_selector(".edge.is-tied")
    page.hover("h1")
    assert page.query_selector(".is-tied") is None


def test_pointing_at_a_bar_marks_its_events_and_the_lines_of_its_log_and_back(page: "Page") -> None:
    page.goto(f"/runs/{BROKEN}")
    attempt = f"attempt:{BROKEN}-tokens-1-2"
    page.hover(f".gantt [data-tie~='{attempt}']")
    for place in (".latest li", ".log .line", "tr .attempts a"):
        assert page.query_selector(f"{place}.is-tied[data-tie~='{attempt}']"), place
    page.hover(".log .line >> nth=0")
    assert page.query_selector(f".gantt .is-tied[data-tie~='{attempt}']")
    page.hover("h1")
    assert page.query_selector(".is-tied") is None
    page.focus(f".gantt a[data-tie~='{attempt}'], .gantt [data-tie~='{attempt}'] a")  # by keyboard too
    assert page.query_selector(f".log .line.is-tied[data-tie~='{attempt}']")


def test_the_strip_of_shards_leads_to_the_slow_ones_by_click_and_by_keyboard(page: "Page") -> None:
    page.goto(f"/runs/{BROKEN}/stages/tokens")
    page.click(".heat a:has(.retried)")
    page.wait_for_url("**/shards?*first=300*")
    assert "s-00301" in page.inner_text("table")
    page.go_back()
    page.focus(".heat a")
    for _ in range(60):  # cells of five shards
        page.keyboard.press("ArrowRight")
    assert "shards 300 to 304" in page.evaluate("document.activeElement.querySelector('title').textContent")
    page.keyboard.press("Enter")
    page.wait_for_url("**/shards?*first=300*")
    page.click("nav.chips >> text=Quarantined")
    page.wait_for_url("**order=quarantined*")
    assert page.inner_text("tbody").startswith("s-00302")


def test_a_log_is_followed_and_a_line_of_it_is_found_by_keyboard_alone(page: "Page", history: MadeUp) -> None:
    put_log(history, LIVE, "model-1-1.log", "2026-05-04T10:15:00Z INFO model: step 1\n")
    page.goto(f"/runs/{LIVE}/logs/model-1-1.log")
    page.keyboard.press("f")
    page.wait_for_selector(".log[data-following]")
    page.wait_for_selector("#live[data-state=live]")
    put_log(history, LIVE, "model-1-1.log", "2026-05-04T10:15:00Z INFO model: step 1\n" * 400 + "the last line\n")
    page.wait_for_selector("text=the last line")
    left = page.evaluate("(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
                         "(document.querySelector('.log'))")  # fmt: skip
    assert left < 4, "it shows its end"
    page.keyboard.press("f")
    page.wait_for_selector(".log:not([data-following])")
    page.keyboard.press("/")
    page.keyboard.type("the last")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=the+last*")
    assert page.locator(".log .line").count() == 1


def test_the_switch_of_light_and_dark_is_remembered(page: "Page") -> None:
    page.goto("/runs")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != before


def test_pages_work_without_scripts_and_on_paper(browser: "Browser", server: Server) -> None:
    context = browser.new_context(base_url=server.url, java_script_enabled=False)
    plain = context.new_page()
    plain.goto(f"/runs/{LIVE}/stages/model/training")
    assert plain.locator(".line-chart").count() >= 5
    plain.goto("/runs")
    plain.fill("main input[name=q]", BROKEN)
    plain.click("text=Filter")
    assert plain.locator("tr[data-row]").count() == 1
    plain.emulate_media(media="print")
    assert not plain.is_visible(".top")
    assert plain.is_visible("h1")
    context.close()
