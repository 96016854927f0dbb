"""The page, in a real headless Chromium; its pictures go to the folder in TSREC_SCREENSHOTS, where that is set."""

import os
import pathlib
import shutil

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving import processes
from tests.serving.fakes import EVIL, FakeRecommender
from tsrec_jax.serving.recommender import Request

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def url():
    with processes.fake() as running:
        yield running.url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    """The page, ready; whatever its console complains about fails the test, and so does any foreign address."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    complaints, addresses = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.complaints, page.addresses = complaints, addresses
    page.goto(url)
    page.wait_for_selector('#status[data-state="ok"]')
    page.wait_for_selector("#found li")
    yield page
    assert complaints == []
    assert [address for address in addresses if not address.startswith(url)] == []
    context.close()


def look(page, name):
    folder = os.environ.get("TSREC_SCREENSHOTS")
    if folder:
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)


def search(page, text):
    with page.expect_response(lambda response: "items?" in response.url):
        page.fill("#search", text)


def add(page, item_id):
    search(page, item_id)
    page.click(f"#found li:has-text('{item_id}') .name")


def history(page):
    return page.locator("#history .name small").all_inner_texts()


def recommended(page):
    return page.locator("#answer .title small").all_inner_texts()


def recommend(page):
    with page.expect_response(lambda response: response.url.endswith("/recommend")):
        page.click("#recommend")
    page.wait_for_selector("#answer:not(.busy)", state="attached")


def alone(history, k=10, **filters):
    return [item.item_id for item in FakeRecommender().alone(Request(tuple(history), k, **filters)).items]


def test_a_person_searches_builds_a_history_and_sees_recommendations_with_their_paths(page):
    assert page.is_disabled("#recommend")
    assert "ready: 31 items, 3 SID levels" in page.inner_text("#status")
    for item_id in ("B003", "B011"):
        add(page, item_id)
    page.fill("#k", "4")
    recommend(page)
    assert recommended(page) == alone(["B003", "B011"], 4)
    first = FakeRecommender().alone(Request(("B003", "B011"), 4)).items[0]
    row = page.locator("#answer li").first
    assert first.title in row.inner_text()
    assert row.locator(".step b").all_inner_texts() == [step.token for step in first.path]
    assert row.locator(".step span").first.inner_text() == "90.5 % -0.10"
    assert f"log {first.score:.3f}" in row.locator(".score").inner_text()
    timing = page.inner_text("#timing")
    assert "4 items, proven to be the best" in timing and "ms in the queue" in timing and "batch of 1" in timing
    look(page, "answer")


def test_the_history_is_reordered_and_items_leave_it(page):
    for item_id in ("B001", "B002", "B003"):
        add(page, item_id)
    page.click("#history li:nth-child(3) [aria-label='Move Thing 3 up']")
    assert history(page) == ["B001", "B003", "B002"]
    page.click("#history li:nth-child(1) [aria-label='Move Thing 1 down']")
    assert history(page) == ["B003", "B001", "B002"]
    page.click("#history li:nth-child(1) [aria-label='Move Thing 3 up']")
    assert history(page) == ["B003", "B001", "B002"]
    page.click("[aria-label='Remove Thing 1']")
    assert history(page) == ["B003", "B002"]
    recommend(page)
    assert recommended(page) == alone(["B003", "B002"])
    page.click("#clear")
    assert history(page) == [] and page.is_disabled("#recommend")


def test_filters_are_chosen_shown_and_taken_back(page):
    add(page, "B003")
    best = alone(["B003"])[:3]
    page.check("#exclude-history")
    search(page, best[0])
    page.click("#found li .act:has-text('Never')")
    recommend(page)
    assert recommended(page) == alone(["B003"], exclude_history=True, exclude=(best[0],))
    page.click("#exclude button")
    assert not page.is_visible("#exclude-box")
    for item_id in best[:2]:
        search(page, item_id)
        page.click("#found li .act:has-text('Only')")
    page.uncheck("#exclude-history")
    look(page, "filters")
    recommend(page)
    assert set(recommended(page)) == set(best[:2])


def test_all_of_it_works_from_the_keyboard(page):
    page.keyboard.press("/")
    with page.expect_response(lambda response: response.url.endswith("q=thing%2012")):
        page.keyboard.type("thing 12")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history li")
    with page.expect_response(lambda response: response.url.endswith("q=thing%201")):
        page.fill("#search", "thing 1")
    page.wait_for_selector("#found li:nth-child(2)")  # the answer is there before the page shows it
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert history(page) == ["B012", "B010"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#exclude button").all_inner_texts() == ["Thing 10"]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "search"
    page.focus("#history li:nth-child(2) button")
    page.keyboard.press("Enter")
    assert history(page) == ["B010", "B012"]
    page.keyboard.press("Delete")
    assert history(page) == ["B012"]
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer li")
    assert recommended(page) == alone(["B012"], exclude=("B010",))


def test_enter_takes_what_was_typed_and_not_what_is_still_shown(page):
    page.fill("#search", "thing 25")
    page.press("#search", "Enter")
    page.wait_for_selector("#history li")
    assert history(page) == ["B025"]


def test_titles_are_text_and_never_html(page):
    add(page, "EVIL")
    search(page, "EVIL")
    page.click("#found li .act:has-text('Never')")
    assert EVIL in page.inner_text("#history") and EVIL in page.inner_text("#exclude")
    page.click("#exclude button")
    page.fill("#k", "31")
    recommend(page)
    assert EVIL in page.inner_text("#answer")
    assert page.locator("main script").count() == 0 and page.locator("main img").count() == 0
    assert page.title() == "tsrec"
    look(page, "evil")


def test_scripts_from_elsewhere_and_inline_ones_do_not_run(page):
    with page.expect_event("requestfailed") as failed:
        page.evaluate("""() => {
            const inline = document.createElement('script');
            inline.textContent = "document.title = 'owned'";
            document.head.append(inline);
            const foreign = document.createElement('script');
            foreign.src = 'http://127.0.0.1:9/evil.js';
            document.head.append(foreign);
        }""")
    assert failed.value.failure == "csp"
    page.addresses.remove(failed.value.url)
    assert page.title() == "tsrec"
    assert len(page.complaints) == 2 and all("Content Security Policy" in text for text in page.complaints)
    page.complaints.clear()


def test_an_error_of_the_server_is_shown_with_its_reason_and_goes_with_the_next_answer(page):
    page.route("**/recommend", lambda route: route.continue_(post_data={"history": ["B001", "gone"]}))
    add(page, "B001")
    recommend(page)
    assert "'gone' is not in the catalogue" in page.inner_text("#error")
    assert recommended(page) == []
    look(page, "error")
    page.complaints.clear()  # the browser itself notes the status 422
    page.unroute("**/recommend")
    page.fill("#k", "5")
    recommend(page)
    assert not page.is_visible("#error") and len(recommended(page)) == 5


def test_a_number_that_is_none_is_refused_by_the_form(page):
    add(page, "B001")
    for number in ("0", "51", ""):
        page.fill("#k", number)
        page.click("#recommend")
        assert page.evaluate("document.activeElement.id") == "k"
    assert recommended(page) == []


def test_it_fits_a_telephone(browser, url):
    page = browser.new_page(viewport={"width": 380, "height": 800}, color_scheme="dark")
    page.goto(url)
    page.wait_for_selector('#status[data-state="ok"]')
    page.wait_for_selector("#found li")
    add(page, "EVIL")
    recommend(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    look(page, "telephone")
    page.close()


def test_a_server_that_does_not_answer_is_told(page):
    add(page, "B001")
    page.route("**/recommend", lambda route: route.abort())
    page.click("#recommend")
    page.wait_for_selector("#error:visible")
    assert page.inner_text("#error") == "the server does not answer"
    page.complaints.clear()  # the browser itself notes the failure


def test_a_server_that_is_not_ready_is_told_and_looked_at_again(page):
    add(page, "B001")
    page.route("**/health", lambda route: route.fulfill(status=503, json={"error": "warm-up: program 1 of 2"}))
    page.evaluate("watchHealth()")
    page.wait_for_selector('#status[data-state="down"]')
    assert page.inner_text("#status") == "warm-up: program 1 of 2" and page.is_disabled("#recommend")
    page.unroute("**/health")
    page.wait_for_selector('#status[data-state="ok"]')
    assert page.is_enabled("#recommend")
    page.complaints.clear()  # the browser itself notes the status 503
