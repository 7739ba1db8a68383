"""The report page: its content, and what it shows and does in a headless browser."""

import base64
import gzip
import html
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from components.report import page, plots, viewer
from components.report.report import markdown
from keras_spatial import evaluation as ev

SHAPE, SPACING = (24, 20, 12), (1.5, 1.5, 3.0)


def volumes(name, shift):
    truth = np.zeros(SHAPE, np.uint8)
    truth[4:20, 4:16, 2:10] = 1
    truth[8:12, 6:10, 4:8] = 2
    prediction = np.roll(truth, shift, axis=0)
    rng = np.random.default_rng(shift)
    image = np.where(truth == 0, -100, np.where(truth == 1, 110, 60)) + rng.normal(0, 10, SHAPE)
    return page.CaseVolumes(name, image.astype(np.int16), truth, prediction, SPACING)


def report(title="phantoms, 64³", cases=("volume-0", "volume-1", "volume-2"), **changes):
    shown = [volumes(name, shift) for shift, name in enumerate(cases)]
    values = {
        "title": title,
        "metrics": [ev.evaluate_case(v.prediction, v.truth, v.spacing, case=v.case) for v in shown],
        "volumes": shown,
        "history": {"loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "dice_liver": [0.2, 0.8]},
        "mesh": "rows:2, columns:2; x:rows, y:columns",
        "timings": {"training": 75.0, "evaluation": 4.5},
        "model_summary": "conv3d (Conv3D) 896",
        "memory": {"one device": 2.5e9},
        "parameters": {"resolution": 64},
        "notes": ["Phantoms, not patients."],
    }
    return page.RunReport(**values | changes)


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_page_names_runs_cases_figures_mesh_and_times(tmp_path):
    text = text_of(page.write_report(tmp_path / "deep" / "report.html", report()))
    for part in (
        "phantoms, 64³", "volume-2", "rows:2, columns:2", "Phantoms, not patients.", "1 min 15 s", "4.5 s",
        "2.50 GB", "conv3d (Conv3D) 896", "resolution",
    ):  # fmt: skip
        assert part in text
    assert not list(tmp_path.rglob(".part-*"))


def test_cases_stand_in_the_order_of_their_lesion_dice(tmp_path):
    text = text_of(page.write_report(tmp_path / "report.html", report()))
    rows = re.findall(r'data-show="([^"]+)"', text)
    assert rows == ["volume-2", "volume-1", "volume-0"]


HOSTILE = [
    "$x^{$",
    "$\\frac{",
    "{{$}}",
    "_hidden",
    "</title><script>alert(1)</script>",
    "a & b",
    "\x1b[31m\0",
    "\udcff",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_users_text_is_neither_formula_nor_markup(tmp_path, text):
    earlier = report(text, cases=(text,), history={text: [1.0, 0.5], "loss": [1.0]}, notes=[text])
    shown = text_of(page.write_report(tmp_path / "report.html", report(text), [earlier]))
    assert "<script>alert" not in shown
    if text.isprintable():
        # In the title, the heading, the table of runs and the plots.
        assert shown.count(html.escape(text[:13], quote=False)) >= 4


@pytest.mark.parametrize("text", ["# a", "[a](javascript:b)", "<script>", "a\n\n# b", "| a |", "*a*", "$x$", "`a`"])
def test_a_users_text_is_no_markdown(text):
    scores = {"dice": {"liver": 0.5}, "mesh": "rows:2", "layout": "x:rows"}
    lines = markdown(text, scores, [text]).splitlines()
    assert lines[0].startswith("# ")
    assert lines[1] == ""
    for line in (lines[0][2:], lines[-1][2:]):
        assert re.search(r"(?<!\\)[<>*`$|\[\]#]", line) is None


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    text = text_of(page.write_report(tmp_path / "report.html", report(), [report("other")]))
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"'#][^"']*)|url\(([^#)][^)]*)\)|@import""", text)
    assert [found for found in outside if found != ("data:,", "")] == []
    assert "default-src 'none'" in text


class _Ids(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]


def test_no_id_stands_twice(tmp_path):
    parser = _Ids()
    parser.feed(text_of(page.write_report(tmp_path / "report.html", report(), [report("other")])))
    assert len(parser.ids) > 20
    assert len(parser.ids) == len(set(parser.ids))


def test_names_are_shown_and_never_run(tmp_path):
    bad = "</script><script>alert(1)</script>"
    run = report(bad, cases=(bad,), mesh=bad, notes=[bad], model_summary=bad, parameters={bad: bad})
    text = text_of(page.write_report(tmp_path / "report.html", run, [report("x" + bad)]))
    assert "<script>alert" not in text


def test_equal_reports_are_equal_files(tmp_path):
    a, b = (text_of(page.write_report(tmp_path / name, report())) for name in ("a.html", "b.html"))
    assert a == b


def test_a_run_without_volumes_history_or_lesions_has_a_page(tmp_path):
    liver = np.ones((4, 4, 4), int)
    run = page.RunReport("bare", [ev.evaluate_case(liver * 0, liver, (1, 1, 1), case="missed")])
    text = text_of(page.write_report(tmp_path / "report.html", run))
    assert "missed" in text
    assert "<canvas" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": []}, "at least one case"),
        ({"volumes": [volumes("unknown", 0)]}, "volumes of 'unknown'"),
        (
            {"volumes": [page.CaseVolumes("volume-0", np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), np.zeros(1), SPACING)]},
            "volume-0.*one shape",
        ),
    ],
)
def test_values_that_do_not_fit_together_write_nothing(tmp_path, changes, message):
    with pytest.raises(page.ReportError, match=message):
        page.write_report(tmp_path / "report.html", report(**changes))
    assert not list(tmp_path.iterdir())


def test_a_large_case_is_carried_smaller_with_its_lesion_and_its_size_in_mm():
    truth = np.zeros((400, 20, 20), np.uint8)
    truth[201, 10, 10] = 2
    image = np.zeros(truth.shape, np.int16)
    found = viewer.encode("big", [("CT", image, viewer.LITS_LOOK)], truth, truth, (0.5, 1.0, 1.0))
    assert found["shape"] == [viewer.VIEWER_SIZE, 20, 20]
    assert found["original"] == [400, 20, 20]
    assert found["spacing"][0] * viewer.VIEWER_SIZE == 200
    for labels in (found["truth"], found["prediction"]):
        assert np.count_nonzero(voxels(labels) == 2) == 1


def voxels(text):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)


def test_a_channel_is_shown_between_its_ends_by_modality():
    truth = np.zeros((4, 4, 4), np.uint8)
    values = np.linspace(-1024, 1024, 64).reshape(4, 4, 4, order="F")
    channels = [("CT", values, viewer.look_of("CT")), ("T2", values * 7 + 3, viewer.look_of("T2"))]
    ct, mr = viewer.encode("a", channels, truth, truth, (1, 1, 1))["channels"]
    assert (ct["low"], ct["high"], mr["low"], mr["high"]) == (-1024, 1024, 0, 1)
    assert [window[0] for window in ct["windows"]] == ["soft tissue", "lung", "bone", "all"]
    assert np.array_equal(voxels(ct["image"]), np.rint(np.linspace(0, 255, 64)))
    # The scale of an MR ends at its percentiles, so it hardly differs.
    assert np.abs(voxels(mr["image"]).astype(int) - voxels(ct["image"])).max() <= 2


CLASSES = ("background", "kidney", "<b>cyst</b>")


def organs(cases=("a", "b"), channels=2):
    shown = [volumes(name, 2 * shift) for shift, name in enumerate(cases)]
    metrics = [ev.evaluate_classes(v.prediction, v.truth, v.spacing, CLASSES, case=v.case) for v in shown]
    shown = [
        page.CaseVolumes(v.case, np.stack([v.image, v.image[::-1]][:channels], 3), v.truth, v.prediction, v.spacing)
        for v in shown
    ]
    return page.RunReport("organs", metrics, shown, ["T1", "T2"][:channels], {"loss": [1.0, 0.5]})


def test_the_page_of_any_task_has_a_viewer_with_its_classes_and_channels(tmp_path):
    text = text_of(page.write_report(tmp_path / "report.html", organs()))
    parser = _Ids()
    parser.feed(text)
    assert len(parser.ids) == len(set(parser.ids))
    assert re.findall(r'data-show="([^"]+)"', text) == ["b", "a"]
    assert re.findall(r'data-class="([0-9]+)"', text) == ["1", "2"]
    assert "kidney" in text and "<b>cyst" not in text
    assert re.search(r"<label>Channel <select[^>]*><option>T1</option><option>T2</option>", text)
    one = text_of(page.write_report(tmp_path / "one.html", organs(channels=1)))
    assert "<label hidden>Channel" in one


def test_an_image_of_other_channels_than_the_report_names_is_refused(tmp_path):
    run = organs()
    with pytest.raises(page.ReportError, match=r"expected the channels \['T1'\]. Received: an image of shape"):
        page.write_report(tmp_path / "report.html", page.RunReport("a", run.metrics, run.volumes, ["T1"]))


def test_liver_and_lesion_have_their_colours_in_the_curves_too():
    (lesion,) = plots.curves({"dice_lesion": [0.1, 0.2]})
    (liver,) = plots.curves({"dice_liver": [0.1, 0.2]})
    (both,) = plots.curves({"dice_lesion": [0.1, 0.2], "dice_liver": [0.1, 0.2], "accuracy": [0.1, 0.2]})
    assert plots.LESION in lesion
    assert plots.LIVER not in lesion
    assert plots.LIVER in liver
    assert plots.LESION not in liver
    assert all(colour in both for colour in (plots.LIVER, plots.LESION, "#4338ca"))


# --- in the browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the `dev` extra)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--window-size=1200,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write_report(path, report(), [report("earlier run", cases=("volume-0", "volume-1"))])
    browser.get(path.as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready")
    return browser


def until(browser, script, wanted=None):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        value = browser.execute_script(script)
        if value == wanted or (wanted is None and value):
            return value
        time.sleep(0.05)
    raise AssertionError(f"{script}: expected {wanted!r}, last value {value!r}")


def pixels(browser, plane="axial"):
    return browser.execute_script(
        f"const c=document.getElementById('{plane}');"
        "return Array.from(c.getContext('2d').getImageData(0,0,c.width,c.height).data)"
    )


def near(colour, data):
    rgb = np.array(data).reshape(-1, 4)[:, :3]
    return int((np.abs(rgb - np.array(colour)).max(axis=1) < 40).sum())


TRUTH, PREDICTION = (0x38, 0xBD, 0xF8), (0xFB, 0x92, 0x3C)


def test_it_starts_with_the_worst_case_at_its_lesion_without_a_console_message(opened):
    assert until(opened, "return document.getElementById('viewer').dataset.ready") == "volume-2"
    assert 5 <= int(opened.execute_script("return document.getElementById('axial').getAttribute('aria-valuenow')")) <= 8
    assert opened.get_log("browser") == []


def test_truth_and_prediction_are_outlined_and_can_be_hidden(opened):
    both = pixels(opened)
    assert near(TRUTH, both) > 50
    assert near(PREDICTION, both) > 50
    for box, gone, stays in (("truth", TRUTH, PREDICTION), ("prediction", PREDICTION, TRUTH)):
        opened.find_element("id", box).click()
        left = pixels(opened)
        assert near(gone, left) == 0
        assert near(stays, left) > 50
        opened.find_element("id", box).click()


def test_the_window_changes_the_picture(opened):
    before = pixels(opened)
    opened.execute_script(
        "const s=document.getElementById('window'); s.selectedIndex=2; s.dispatchEvent(new Event('change'))"
    )
    assert pixels(opened) != before
    opened.execute_script(
        "const s=document.getElementById('window'); s.selectedIndex=0; s.dispatchEvent(new Event('change'))"
    )
    assert pixels(opened) == before


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_keys_move_through_the_slices(opened, plane):
    from selenium.webdriver.common.keys import Keys

    canvas = opened.find_element("id", plane)
    depth = int(canvas.get_attribute("aria-valuemax"))
    for key, place in (
        (Keys.HOME, 1),
        (Keys.ARROW_UP, 2),
        (Keys.ARROW_DOWN, 1),
        (Keys.ARROW_DOWN, 1),
        (Keys.END, depth),
    ):
        canvas.send_keys(key)
        assert int(canvas.get_attribute("aria-valuenow")) == place
    shown = opened.execute_script(f"return document.querySelector('output[data-plane={plane}]').textContent")
    assert shown == f"{depth} / {depth}"


def test_a_click_centres_the_other_planes(opened):
    from selenium.webdriver import ActionChains

    canvas = opened.find_element("id", "axial")
    for plane in ("coronal", "sagittal"):
        opened.execute_script(f"document.getElementById('{plane}').setAttribute('aria-valuenow', 0)")
    ActionChains(opened).move_to_element(canvas).click().perform()
    assert abs(int(opened.find_element("id", "sagittal").get_attribute("aria-valuenow")) - SHAPE[0] / 2) <= 1
    assert abs(int(opened.find_element("id", "coronal").get_attribute("aria-valuenow")) - SHAPE[1] / 2) <= 1


def test_the_patient_s_right_is_on_the_left_of_an_axial_picture(browser, tmp_path):
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[15:18, 15:18, 8:12] = 1  # right, anterior
    case = page.CaseVolumes("side", np.full(truth.shape, -1000, np.int16), truth, truth * 0, (1, 1, 1))
    metrics = ev.evaluate_case(truth, truth, (1, 1, 1), case="side")
    browser.get(page.write_report(tmp_path / "side.html", page.RunReport("side", [metrics], [case])).as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready")
    data = np.array(pixels(browser)).reshape(-1, 4)[:, :3]
    side = int(len(data) ** 0.5)
    rows, columns = np.divmod(np.flatnonzero(np.abs(data - np.array(TRUTH)).max(axis=1) < 40), side)
    assert columns.max() < side / 2
    assert rows.max() < side / 2


def test_a_case_is_opened_from_the_table(browser, tmp_path):
    browser.get(page.write_report(tmp_path / "report.html", report()).as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready", "volume-2")
    browser.execute_script("document.querySelector('[data-show=\"volume-0\"]').click()")
    until(browser, "return document.getElementById('viewer').dataset.ready", "volume-0")
    assert browser.execute_script("return document.activeElement.id") == "axial"


def test_a_phone_shows_the_page_without_sideways_scrolling(browser, tmp_path):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(page.write_report(tmp_path / "report.html", report(), [report("other")]).as_uri())
        until(browser, "return document.getElementById('viewer').dataset.ready")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        assert browser.execute_script("return document.getElementById('axial').clientWidth") > 280
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def colours(browser):
    data = pixels(browser)
    return [near([int(c[i : i + 2], 16) for i in (1, 3, 5)], data) for c in viewer.COLOURS[:2]]


def test_classes_are_outlined_in_their_colours_and_can_be_hidden(browser, tmp_path):
    browser.get(page.write_report(tmp_path / "report.html", organs()).as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready", "b")
    both = colours(browser)
    assert min(both) > 20
    for place, box in enumerate(browser.find_elements("css selector", "input[data-class]")):
        box.click()
        left = colours(browser)
        assert left[place] == 0 and left[1 - place] > 20
        box.click()
    browser.find_element("id", "prediction").click()
    assert 0 < sum(colours(browser)) < sum(both)


def test_another_channel_is_another_picture_of_the_same_case(browser, tmp_path):
    browser.get(page.write_report(tmp_path / "report.html", organs()).as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready", "b")
    before = pixels(browser)
    browser.execute_script(
        "const s=document.getElementById('channel'); s.selectedIndex=1; s.dispatchEvent(new Event('change'))"
    )
    assert pixels(browser) != before
    names = "return Array.from(document.getElementById('window').options).map((o) => o.text)"
    assert browser.execute_script(names) == ["all", "dark parts", "bright parts"]
    assert browser.find_element("id", "channel").is_displayed()
    browser.get(page.write_report(tmp_path / "one.html", organs(channels=1)).as_uri())
    until(browser, "return document.getElementById('viewer').dataset.ready", "b")
    assert not browser.find_element("id", "channel").is_displayed()
