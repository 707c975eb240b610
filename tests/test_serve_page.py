"""The page of `mrcnn serve` in a real browser: drop, click, slide, step, save, keyboard, phone, offline.

Needs playwright and a Chromium (Debian: `apt-get install chromium`); skipped without them. A model with the shipped
weights of "shapes" runs behind it. Screenshots are written with MRCNN_SCREENSHOTS=<folder>.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs a browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

from serve_kit import image_file, running

from mrcnn.model import MaskRCNN
from mrcnn.serve import create_app

DROP = """([text, name]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    document.getElementById("stage").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""


SIDE = 768  # pixels of the picture


def shapes_photo() -> np.ndarray:
    """A picture of a triangle, a circle and a square in three colors, larger than the network's 128 x 128."""
    image = np.full((SIDE, SIDE, 3), (236, 229, 214), np.uint8)
    corners = np.array([[267, 208], [79, 534], [455, 534]], np.int32)
    cv2.fillPoly(image, [corners], (214, 73, 51), cv2.LINE_AA)
    cv2.circle(image, (560, 230), 170, (226, 163, 43), -1, cv2.LINE_AA)
    cv2.rectangle(image, (410, 430), (710, 730), (38, 84, 124), -1)
    return image


@pytest.fixture(scope="module")
def model():
    return MaskRCNN(mode="inference", weights="shapes")


@pytest.fixture(scope="module")
def address(model):
    app = create_app(model)
    app.state.service.warm_up()
    with running(app) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=["light"])
def page(browser, address, request):
    yield from open_page(browser, address, viewport={"width": 1280, "height": 800}, color_scheme=request.param)


def open_page(browser, address, **options):
    """Yields the page, and checks that it asked no other host and had no error."""
    context = browser.new_context(accept_downloads=True, **options)
    page, errors, requests = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda sent: requests.append(sent.url))
    page.goto(address)
    yield page
    context.close()
    foreign = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []
    assert [error for error in errors if "status of 4" not in error] == []


def drop(page, image=None, name="shapes.png") -> None:
    data = image_file(shapes_photo() if image is None else image) if not isinstance(image, bytes) else image
    page.evaluate(DROP, [base64.b64encode(data).decode(), name])
    page.wait_for_selector("#busy", state="hidden", timeout=120_000)


def wait_until(page, condition) -> None:
    """Waits for a condition; Playwright's own function is stopped by the page's Content-Security-Policy."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within 10 s: {condition}")


def show(page, name) -> None:
    """Writes a screenshot, if asked for."""
    if folder := os.environ.get("MRCNN_SCREENSHOTS"):
        page.wait_for_timeout(150)
        page.screenshot(path=Path(folder) / f"{name}.png")


def set_slider(page, selector, value) -> None:
    page.eval_on_selector(selector, "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value))


def listed(page) -> list[str]:
    return page.locator("#list strong").all_inner_texts()


def save(page, button) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def on_canvas(page, x, y) -> None:
    """Clicks at a place of the photo, given in its pixels."""
    box = page.locator("#canvas").bounding_box()
    scale = min(box["width"] - 28, box["height"] - 28) / SIDE
    left, top = (box["width"] - SIDE * scale) / 2, (box["height"] - SIDE * scale) / 2
    page.click("#canvas", position={"x": left + x * scale, "y": top + y * scale})


def test_a_dropped_photo_shows_what_detect_finds(page, model):
    show(page, "serve_empty")
    drop(page)
    found = model.detect([shapes_photo()])[0]
    assert len(found) == 3
    assert listed(page) == found.names
    assert "objects" in page.inner_text("#summary")
    show(page, "serve")


def test_a_click_on_an_object_selects_it(page):
    drop(page)
    on_canvas(page, 250, 420)
    selected = page.locator('#list [aria-pressed="true"]')
    assert selected.count() == 1 and "triangle" in selected.inner_text()
    on_canvas(page, 12, 12)
    assert page.locator('#list [aria-pressed="true"]').count() == 0
    page.locator("#list button").first.click()
    assert page.locator('#list [aria-pressed="true"]').count() == 1
    show(page, "serve_selected")
    page.keyboard.press("Escape")
    assert page.locator('#list [aria-pressed="true"]').count() == 0


def test_sliders_match_detect_without_another_request(page, model):
    drop(page)
    asked = []
    page.on("request", lambda sent: asked.append(sent.url))
    config = model.config
    before = config.DETECTION_MIN_CONFIDENCE, config.DETECTION_NMS_THRESHOLD
    shown = {}
    for score, nms in ((0.05, 0.5), (0.05, 0.9), (0.98, 0.3)):
        set_slider(page, "#score", score)
        set_slider(page, "#nms", nms)
        shown[score, nms] = listed(page)
    assert asked == []
    for (score, nms), names in shown.items():
        config.DETECTION_MIN_CONFIDENCE, config.DETECTION_NMS_THRESHOLD = score, nms
        assert names == model.detect([shapes_photo()])[0].names
    config.DETECTION_MIN_CONFIDENCE, config.DETECTION_NMS_THRESHOLD = before
    assert len(set(map(len, shown.values()))) > 1
    set_slider(page, "#score", 1)
    assert "No object" in page.inner_text("#summary")
    page.click("#reset")
    assert len(listed(page)) == 3


def test_the_steps_can_be_browsed(page):
    drop(page)
    page.click("#tab-steps")
    titles, pictures = [], []
    for i in range(9):
        titles.append(page.inner_text("#step-title"))
        pictures.append(page.eval_on_selector("#canvas", "e => e.toDataURL().length"))
        show(page, f"serve_step{i + 1}")
        if i < 8:
            page.click("#next")
    assert [title[0] for title in titles] == list("123456789")
    assert len(set(pictures)) == 9  # each draws something else
    assert page.is_disabled("#next")
    page.get_by_role("button", name="Step 7").click()
    set_slider(page, "#nms-step", 2)
    assert "Kept:" in page.inner_text("#step-controls")
    page.get_by_role("button", name="Step 2").click()
    before = page.eval_on_selector("#canvas", "e => e.toDataURL()")
    page.get_by_label("P4").check()
    assert page.eval_on_selector("#canvas", "e => e.toDataURL()") != before
    page.focus("#canvas")
    before = page.eval_on_selector("#canvas", "e => e.toDataURL()")
    page.keyboard.press("ArrowRight")
    assert page.eval_on_selector("#canvas", "e => e.toDataURL()") != before


def test_saved_results_equal_detect(page, model):
    drop(page)
    saved = json.loads(save(page, "#save-json"))
    found = model.detect([shapes_photo()])[0]
    assert saved["images"] == [{"id": 1, "file_name": "shapes.png", "width": SIDE, "height": SIDE}]
    assert [c["name"] for c in saved["categories"]] == ["square", "circle", "triangle"]
    assert [a["category_id"] for a in saved["annotations"]] == found.class_ids.tolist()
    for i, entry in enumerate(saved["annotations"]):
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        assert mask.sum() == entry["area"]
        assert (mask != found.masks[..., i]).mean() < 1e-4  # the page's run has other last bits
    picture = cv2.imdecode(np.frombuffer(save(page, "#save-png"), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (SIDE, SIDE, 3)
    changed = np.abs(picture.astype(int) - shapes_photo()).sum(axis=2) > 30
    assert changed[found.masks.any(axis=2)].mean() > 0.9 > 0.1 > changed[~found.masks.any(axis=2)].mean()


def test_a_bad_file_shows_the_reason(page):
    drop(page, b"%PDF-1.7", "report.pdf")
    assert "is PDF, not an image" in page.inner_text("#message")
    drop(page)
    assert page.is_hidden("#message")


def test_a_tiff_is_shown(page):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(shapes_photo()).save(file, "TIFF")
    drop(page, file.getvalue(), "shapes.tif")
    assert len(listed(page)) == 3


def test_a_photo_can_be_taken_with_the_camera(page):
    page.click("#camera")
    wait_until(page, "document.getElementById('video').videoWidth > 0")
    page.click("#take")
    page.wait_for_selector("#canvas", state="visible")
    assert page.is_hidden("#camera-dialog")


def test_the_keyboard_reaches_everything(page):
    drop(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"open", "camera", "canvas", "tab-objects", "score", "nms", "object", "save-png", "save-json"} <= seen
    page.focus("#list button")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#list button").nth(1).get_attribute("aria-pressed") == "true"
    page.focus("#tab-objects")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#steps") and page.evaluate("document.activeElement.id") == "tab-steps"


def test_controls_have_names_and_text_has_contrast(page):
    drop(page)
    for tab in ("#tab-objects", "#tab-steps"):
        page.click(tab)
        nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, canvas')].filter((e) =>
            !(e.getAttribute('aria-label') || e.innerText || e.labels?.length || e.getAttribute('aria-labelledby')))
            .map((e) => e.outerHTML)""")
        assert nameless == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for text, ground in (
            ("ink", "card"),
            ("muted", "card"),
            ("muted", "page"),
            ("on-accent", "accent"),
            ("bad", "bad-soft"),
        ):
            colors = [
                page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{n}')")
                for n in (text, ground)
            ]
            assert contrast(*colors) >= 4.5, (scheme, text, ground)
    show(page, "serve_dark")


def contrast(*colors: str) -> float:
    """The contrast of WCAG 2 of two colors, "#rrggbb"."""
    rgb = np.array([[int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_a_phone_needs_no_horizontal_scrolling(browser, address):
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
    for page in open_page(browser, address, **phone):
        show(page, "serve_phone_empty")
        drop(page)
        page.tap("#list button")
        show(page, "serve_phone")
        page.tap("#tab-steps")
        page.get_by_role("button", name="Step 3").tap()
        show(page, "serve_phone_step")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        small = page.evaluate("""() => [...document.querySelectorAll('button')].filter((e) => e.offsetParent &&
            (e.offsetHeight < 32 || e.offsetWidth < 24)).map((e) => e.outerHTML)""")
        assert small == []


def test_the_token_is_asked_for_once(browser, model):
    app = create_app(model, token="secret")
    app.state.service.warm_up()
    with running(app) as (url, _):
        for page in open_page(browser, url):
            page.fill("#token", "secret")
            page.click("#token-dialog button")
            wait_until(page, "document.getElementById('model').textContent.includes('3 classes')")
            drop(page)
            assert len(listed(page)) == 3
