"""The page, in a real headless Chromium; its pictures go to the folder in TSREC_SCREENSHOTS, where that is set."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import urllib.request

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving import processes
from tests.serving.fakes import EVIL, FakeRecommender
from tsrec_jax.serving.answers import Request

TOKEN = "a token for changes"
WIDTHS = {"desk": {"width": 1440, "height": 900}, "telephone": {"width": 390, "height": 844}}
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'
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
    with processes.fake(TSREC_ADMIN_TOKEN=TOKEN) as running:
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
def open_page(browser, url):
    """open_page(size, path, **options): the page, ready.

    What its console complains about fails the test, and so does any foreign address.
    """
    with contextlib.ExitStack() as opened:

        def start(size="desk", path="/", **options):
            telephone = size == "telephone"
            context = browser.new_context(viewport=WIDTHS[size], is_mobile=telephone, has_touch=telephone, **options)
            opened.callback(context.close)
            page = context.new_page()
            page.complaints, page.addresses = [], []
            page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("request", lambda request: page.addresses.append(request.url))
            page.goto(url + path)
            page.wait_for_selector('#status[data-state="ok"]')
            page.wait_for_selector("#found li")
            pages.append(page)
            return page

        pages = []
        yield start
        for page in pages:
            assert page.complaints == []
            assert [address for address in page.addresses if not address.startswith(url)] == []


@pytest.fixture
def page(open_page):
    return open_page()


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
    return page.locator("#history .id").all_inner_texts()


def recommended(page):
    return page.locator("#answer .title .id").all_inner_texts()


def recommend(page):
    with page.expect_response(lambda response: response.url.endswith("/v1/recommend")):
        page.click("#recommend")
    page.wait_for_selector("#answer:not(.busy)", state="attached")


def alone(history, k=10, **filters):
    return [item.item_id for item in FakeRecommender().alone(Request(tuple(history), k, **filters)).items]


def test_a_person_searches_builds_a_history_and_sees_recommendations_with_their_paths(page):
    assert page.is_disabled("#recommend")
    assert "ready: 31 items" in page.inner_text("#status")
    for item_id in ("B003", "B011"):
        add(page, item_id)
    page.fill("#k", "4")
    recommend(page)
    assert recommended(page) == alone(["B003", "B011"], 4)
    first = FakeRecommender().alone(Request(("B003", "B011"), 4)).items[0]
    row = page.locator("#answer li").first
    assert first.title in row.inner_text()
    assert row.locator(".step b").all_inner_texts() == [step.token for step in first.path]
    assert row.locator(".step .share").first.inner_text() == "90.5 %"
    row.locator("summary").click()
    assert "90.5 % (log-probability -0.100)" in row.inner_text() and f"score {first.score:.3f}" in row.inner_text()
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


def test_each_token_is_shown_with_what_it_stands_for(page):
    def with_words(route):
        answer = route.fetch().json()
        for step in answer["items"][0]["path"]:
            step["keywords"] = ["mug", "travel", "lamp", f"fourth of {step['token']}"]
            step["description"] = "Things for a journey."
        answer["items"][0] |= {
            "brand": "Northwind",
            "categories": "Camping, Mugs",
            "image": "https://pictures.example/mug.png",
        }
        route.fulfill(json=answer)

    page.route("**/recommend", with_words)
    page.route(re.compile("^https:"), lambda route: route.fulfill(body=PICTURE, content_type="image/svg+xml"))
    add(page, "B003")
    recommend(page)
    row = page.locator("#answer > li").first
    assert row.locator(".words").all_inner_texts() == ["mug, travel, lamp"] * 3
    assert row.locator(".title small").inner_text().endswith(" · Northwind · Camping, Mugs")
    assert row.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    page.addresses.remove("https://pictures.example/mug.png")
    row.locator("summary").click()
    assert "mug, travel, lamp, fourth of <a_" in row.inner_text() and "Things for a journey." in row.inner_text()
    look(page, "words")


def test_an_example_and_a_random_history_are_one_click_away(page):
    page.locator("#examples button").first.click()
    page.wait_for_selector("#answer li")
    first = history(page)
    assert len(first) == 4 and len({int(item_id[1:]) % 4 for item_id in first}) == 1  # one first token
    assert recommended(page) == alone(first)
    with page.expect_response(lambda response: response.url.endswith("/v1/recommend")):
        page.click("#random")
    assert history(page) != first


def test_rows_that_answer_something_else_are_marked_until_they_answer_again(page):
    add(page, "B003")
    recommend(page)
    assert page.inner_text("#stale") == ""
    for change, back in (
        (lambda: page.fill("#k", "7"), lambda: page.fill("#k", "10")),
        (lambda: page.check("#exclude-history"), lambda: page.uncheck("#exclude-history")),
        (lambda: add(page, "B004"), lambda: page.click("[aria-label='Remove Thing 4']")),
    ):
        change()
        assert "earlier history or earlier settings" in page.inner_text("#stale")
        assert page.locator("#answer.stale").count() == 1
        back()
        assert page.inner_text("#stale") == "" and page.locator("#answer.stale").count() == 0
    page.click("#clear")
    assert recommended(page) == [] and page.is_visible("#answer-empty") and page.inner_text("#timing") == ""


def test_the_address_holds_what_was_asked(page, open_page, url):
    for item_id in ("B003", "B005"):
        add(page, item_id)
    search(page, "B007")
    page.click("#found li .act:has-text('Never')")
    page.fill("#k", "4")
    page.check("#exclude-history")
    expected = alone(["B003", "B005"], 4, exclude_history=True, exclude=("B007",))
    other = open_page(path=page.url.removeprefix(url))
    other.wait_for_selector("#answer li")
    assert history(other) == ["B003", "B005"] and recommended(other) == expected
    other.evaluate("location.hash = '#history=B003&history=gone&k=3'")
    other.wait_for_selector("#error:visible")
    assert other.inner_text("#error") == "no longer in the catalogue: gone"
    assert recommended(other) == alone(["B003"], 3)
    other.complaints.clear()  # the browser itself notes the status 404


def test_a_request_is_copied_as_a_command_that_gives_the_same_answer(page, url):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add(page, "B003")
    recommend(page)
    page.click("#copy-curl")
    page.wait_for_selector("#copied:has-text('copied')")
    program, address, *options = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert (program, address, options[::2]) == ("curl", f"{url}/v1/recommend", ["-H", "-d"])
    header, body = options[1::2]
    request = urllib.request.Request(address, body.encode(), dict([header.split(": ")]))
    with urllib.request.urlopen(request) as answer:
        assert [item["id"] for item in json.load(answer)["items"]] == recommended(page)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")  # as over plain HTTP
    page.click("#copy-address")
    assert page.input_value("#copy-by-hand") == page.url


@pytest.mark.parametrize("size", WIDTHS)
def test_answer_and_error_come_into_sight_however_long_the_history_is(open_page, size):
    page = open_page(size, path="/#" + "&".join(f"history=B{n:03d}" for n in [*range(30), *range(20)]))
    page.wait_for_selector("#answer li")

    def in_sight(selector):
        page.wait_for_function(
            """selector => { const box = document.querySelector(selector).getBoundingClientRect();
            return box.top >= 0 && box.top < innerHeight / 2; }""",
            arg=selector,
        )

    in_sight("#answer li")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    look(page, f"answer-{size}")
    page.evaluate("scrollTo(0, 0)")
    button = page.locator("#recommend").bounding_box()
    assert 0 < button["y"] < WIDTHS[size]["height"] - button["height"]  # in reach without scrolling
    page.route("**/recommend", lambda route: route.continue_(post_data={"history": ["gone"]}))
    page.click("#recommend")
    page.wait_for_selector("#error:visible")
    in_sight("#error")
    if size == "telephone":
        assert page.evaluate("document.activeElement.id") == "answer-heading"
    page.complaints.clear()  # the browser itself notes the status 422


def test_a_title_of_any_length_and_direction_leaves_the_rest_in_place(page):
    items = page.evaluate("fetch('v1/items?limit=2').then(answer => answer.json())")
    items["items"][0]["title"] = "\u05d0\u05d1\u05d2 " + "long " * 400
    page.route("**/items?**", lambda route: route.fulfill(json=items))
    search(page, "long")
    page.locator("#found .name").first.click()
    assert page.locator("#history bdi").first.inner_text().startswith("\u05d0")
    assert page.locator("#recommend").bounding_box()["y"] < 600
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_empty_result_says_why(page):
    search(page, "nothing like it")
    page.wait_for_selector("#found-note:has-text('No title or id holds every word')")
    add(page, "B003")
    page.click("#found li .act:has-text('Only')")
    page.check("#exclude-history")
    recommend(page)
    assert page.inner_text("#timing").startswith("No item is left by the filters.")
    search(page, "thing 1")
    page.wait_for_selector("#found li:nth-child(2)")
    page.click("#only-found")
    recommend(page)
    assert len(recommended(page)) == 10
    page.click("#found li:has-text('B010') .act:has-text('Never')")  # no longer among those that alone may be
    assert page.locator("#exclude button").count() == 1
    recommend(page)
    assert "B010" not in recommended(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS)
def test_it_has_no_violations_of_accessibility_that_axe_finds(open_page, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = open_page(size, color_scheme=scheme)

    def check(name):
        look(page, f"{name}-{size}-{scheme}")
        assert axe.run(page).response["violations"] == []

    add(page, "EVIL")
    recommend(page)
    page.locator("#answer summary").first.click()
    page.fill("#k", "5")  # so that the rows are stale
    check("stale")
    page.goto(page.url.partition("#")[0] + "admin.html")
    page.wait_for_selector("#found li")
    check("admin")


def test_without_javascript_it_says_so(browser, url):
    page = browser.new_page(java_script_enabled=False)
    page.goto(url)
    assert "needs JavaScript" in page.inner_text("noscript") and not page.is_visible("#status")
    page.close()


def test_the_catalogue_is_changed_with_the_token_alone(open_page):
    page = open_page(path="/admin.html")
    page.fill("#id", "NEW/1")
    page.fill("#title", "A new pump")
    page.fill("#sid", "<a_1><b_2><c_3>")
    page.click("text=Save")
    page.wait_for_selector("#error:visible")
    assert "needs the header" in page.inner_text("#error")
    assert page.evaluate("document.activeElement.id") == "token"
    page.complaints.clear()  # the browser itself notes the status 401
    page.fill("#token", TOKEN)
    page.click("text=Save")
    page.wait_for_selector("#done:has-text('Added: NEW/1; now 32 items.')")
    assert page.is_disabled("#description"), "what would not be kept cannot be typed"
    page.click("text=Save")
    page.wait_for_selector("#done:has-text('Nothing is to be changed.')")
    page.fill("#id", "B001")
    assert page.is_enabled("#description")
    page.click("text=Save")
    page.wait_for_selector("#error:has-text('already')")
    page.complaints.clear()  # of the status 412
    search(page, "new pump")
    with page.expect_request("**/v1/items/*") as changed:
        page.click("[aria-label='Block A new pump']")
    assert (changed.value.method, changed.value.post_data_json) == ("PATCH", {"blocked": True})
    page.wait_for_selector("#done:has-text('Blocked: NEW/1')")
    assert "blocked" in page.inner_text("#found li")
    page.click("[aria-label='Edit A new pump']")
    page.click("text=Save")
    page.wait_for_selector("#done:has-text('Nothing is to be changed.')")
    page.fill("#title", "An old pump")
    page.uncheck("#blocked")
    with page.expect_request("**/v1/items/*") as changed:
        page.click("text=Save")
    assert (changed.value.method, changed.value.post_data_json) == ("PATCH", {"title": "An old pump", "blocked": False})
    page.wait_for_selector("#done:has-text('Changed: NEW/1')")
    search(page, "old pump")
    page.click("[aria-label='Remove An old pump']")
    page.click("dialog button[value='']")
    assert page.locator("#found li").count() == 1
    page.click("[aria-label='Remove An old pump']")
    look(page, "admin")
    page.click("dialog button[value=remove]")
    page.wait_for_selector("#done:has-text('Removed: NEW/1; now 31 items.')")
    assert TOKEN not in page.url and page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]


def test_an_item_without_a_semantic_id_shows_the_one_that_its_text_got(open_page):
    page = open_page(path="/admin.html")
    near = {"id": "B001", "title": "Thing 1", "sid": ["<a_1>", "<b_1>", "<c_1>"], "likeness": 0.9}
    coding = {"sid": ["<a_1>", "<b_2>", "<c_3>"], "sure": 0.83, "shared_with": [], "neighbours": [near]}
    asked = []

    def answer(route):
        asked.append((route.request.post_data_json, route.request.headers.get("x-changed-by")))
        route.fulfill(status=201, json={"id": "NEW", "new": True, "items": 32, **coding})

    page.route("**/v1/items/NEW", answer)
    page.fill("#token", TOKEN)
    page.fill("#who", "Łucja")
    page.fill("#id", "NEW")
    page.fill("#title", "A new pump")
    page.fill("#description", "It pumps.")
    page.click("text=Save")
    page.wait_for_selector("#neighbours li")
    assert asked == [({"title": "A new pump", "description": "It pumps."}, "Łucja")]
    assert "Its semantic ID is <a_1><b_2><c_3>; 83 %" in page.inner_text("#done")
    assert "Thing 1" in page.inner_text("#neighbours")


def test_the_journal_shows_the_latest_changes_first(open_page):
    page = open_page(path="/admin.html")
    lines = [
        {
            "number": n,
            "at": f"2026-01-0{n}T10:00:00.000Z",
            "who": "Ada",
            "action": "block",
            "id": f"B00{n}",
            "item": None,
        }
        for n in (1, 2)
    ]
    asked = []

    def answer(route):
        asked.append((route.request.url.partition("?")[2], route.request.headers.get("authorization")))
        route.fulfill(body="".join(json.dumps(line) + "\n" for line in lines))

    page.route("**/health", lambda route: route.fulfill(json={"items": 31, "max_k": 50, "last_change": 102}))
    page.route("**/v1/catalogue/changes?*", answer)
    page.fill("#token", TOKEN)
    page.click("#show-journal")
    page.wait_for_selector("#journal td")
    assert asked == [("after=2&limit=1000", f"Bearer {TOKEN}")]
    assert [row.split("\t") for row in page.inner_text("#journal tbody").splitlines()] == [
        ["2026-01-02 10:00:00", "Ada", "block", "B002"],
        ["2026-01-01 10:00:00", "Ada", "block", "B001"],
    ]
    look(page, "journal")


def test_an_answer_that_is_not_proven_offers_a_search_that_proves_it(page):
    asked = []

    def answer(route):
        asked.append(route.request.post_data_json)
        route.fulfill(json=route.fetch(post_data=json.dumps({"history": ["B003"]})).json() | {"exact": len(asked) > 1})

    page.route("**/v1/recommend", answer)
    add(page, "B003")
    recommend(page)
    assert "not proven" in page.inner_text("#timing")
    page.click("#exact")
    page.wait_for_selector("#timing:has-text('10 items, proven')")
    assert [body.get("exact", False) for body in asked] == [False, True]
    assert not page.is_visible("#exact") and page.inner_text("#stale") == ""

    page.route("**/health", lambda route: route.fulfill(json=route.fetch().json() | {"max_beams": 50}))
    asked.clear()
    page.reload()  # its address holds the request
    page.wait_for_selector("#timing:has-text('not proven')")
    assert not page.is_visible("#exact"), "a server without wider searches is asked for none"


def test_a_server_that_does_not_answer_is_told(page):
    add(page, "B001")
    page.route("**/recommend", lambda route: route.abort())
    page.click("#recommend")
    page.wait_for_selector("#error:visible")
    assert page.inner_text("#error") == "the server does not answer"
    page.complaints.clear()  # the browser itself notes the failure


def test_a_server_that_is_not_ready_is_told_and_looked_at_again(page):
    page.route("**/health", lambda route: route.fulfill(status=503, json={"error": "warm-up: program 1 of 2"}))
    page.reload()
    page.wait_for_selector('#status[data-state="waiting"]')
    assert page.inner_text("#status") == "warm-up: program 1 of 2"
    page.locator("#examples button").first.click()
    assert page.is_disabled("#recommend") and page.inner_text("#why") == "The server is not ready."
    page.unroute("**/health")
    page.wait_for_selector("#answer li")  # what was asked for meanwhile
    assert page.get_attribute("#status", "data-state") == "ok" and page.inner_text("#why") == ""
    page.complaints.clear()  # the browser itself notes the status 503
