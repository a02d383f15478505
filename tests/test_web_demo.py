"""The web page: what it shows, what it refuses, and the page itself in headless Chromium where there is one."""

import contextlib
import json
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes
from hands import two_persons
from load_tool import load_tool
from PIL import Image
from refusals import ROOT
from tiny_model import tiny_config

from querypose import PosePredictor
from querypose.data import skeleton_of
from querypose.errors import UserError

gr = pytest.importorskip("gradio", reason="needs Gradio: pip install 'gradio>=6'")
httpx = pytest.importorskip("httpx")  # Gradio needs it
web = pytest.importorskip("querypose.web")

VIEWS = [web.POSES, web.ALL_PARTS, "left hand", "right hand"]


def find_two(image):
    """Two persons; the second part of the first looks at the top left, that of the second at the bottom right."""
    boxes = Boxes(torch.tensor([[0.0, 0, 200, 200], [300, 200, 500, 400]]))
    attention = torch.zeros(2, 2, 4, 4)
    attention[:, 0, 1, 2] = 1.0
    attention[0, 1, 0, 0] = attention[1, 1, 3, 3] = 0.2
    return two_persons(image.shape[:2], part_attention=attention, attention_boxes=boxes)


@pytest.fixture
def found(tmp_path):
    Image.new("RGB", (500, 400), (128, 128, 128)).save(tmp_path / "scene.png")
    return web.find_poses(find_two, str(tmp_path / "scene.png"))


def test_persons_show_their_own_attention(found):
    image = web.show_poses(VIEWS, found, 0.3, 0.95, False, "right hand")[0]
    changed = (image != 128).any(axis=2)
    # a location of the map is 50 pixels wide
    assert changed[25, 25] and changed[375, 475]
    assert not changed[:, 76:424].any() and not changed[76:324].any()


def test_table_and_results_follow_the_threshold(found):
    image, rows, button = web.show_poses(VIEWS, found, 0.5, 0.5, True, web.ALL_PARTS)
    assert rows == [[1, 0.75, 0.875, 5, 10, 55, 40], [2, 0.5, 0.5, 0, 0, 8, 8]] and image.shape == (400, 500, 3)
    results = json.loads(Path(button.value["path"]).read_text())
    assert results[0]["keypoints"] == [10, 20, 1, 50, 20, 0.75] and len(results) == 2
    assert len(web.show_poses(VIEWS, found, 0.51, 0.5, True, web.POSES)[1]) == 1
    image, rows, _ = web.show_poses(VIEWS, found, 0.76, 0.5, True, web.POSES)
    assert rows == [] and (image == 128).all()
    os.remove(found[0])
    with pytest.raises(gr.Error, match="does not exist"):
        web.show_poses(VIEWS, found, 0.51, 0.5, True, web.POSES)


def test_a_file_that_is_no_image_gets_a_sentence(tmp_path):
    (tmp_path / "scene.png").write_bytes(b"hello")
    with pytest.raises(gr.Error, match="no image") as raised:
        web.find_poses(find_two, str(tmp_path / "scene.png"))
    assert "scene.png" in raised.value.message and str(tmp_path) not in raised.value.message


def predictor_of(*opts):
    cfg = tiny_config("full", *opts)
    return SimpleNamespace(cfg=cfg, skeleton=skeleton_of(cfg), with_attention=find_two)


def test_the_server_is_local_bounded_and_private(monkeypatch):
    monkeypatch.setattr(web, "MAX_UPLOAD", 1000)
    for name, value in (("http_proxy", "http://127.0.0.1:9"), ("no_proxy", ""), ("NO_PROXY", "")):  # nothing listens
        monkeypatch.setenv(name, value)
    asked, resolve = set(), socket.getaddrinfo

    def record(host, *args, **options):
        asked.add(os.fsdecode(host))
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    with contextlib.closing(web.serve(predictor_of())) as page:
        assert page.local_url.startswith("http://127.0.0.1:") and page.share_url is None
        assert not page.analytics_enabled and asked <= {"127.0.0.1", "localhost"}
        with pytest.raises(UserError, match="cannot listen on .*choose another"):
            web.serve(predictor_of(), port=page.server_port)
        for size, status in ((10, 200), (2000, 413)):
            sent = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": ("a.png", b"0" * size)})
            assert sent.status_code == status
            assert status != 200 or sent.json()[0].startswith(os.environ["GRADIO_TEMP_DIR"]), "shared with no program"


def test_the_tool_listens_on_this_machine_alone(monkeypatch):
    tool, called = load_tool("web_demo"), []
    page = SimpleNamespace(local_url="http://127.0.0.1:8000/", block_thread=lambda: None)
    monkeypatch.setattr(tool, "PosePredictor", lambda config_file, score_threshold, opts: (score_threshold, opts))
    monkeypatch.setattr(web, "serve", lambda *args: called.append(args) or page)
    tool.main(["--config-file", "c", "MODEL.WEIGHTS", "w"])
    assert called == [((0.01, ["MODEL.WEIGHTS", "w"]), "127.0.0.1", 8000)]


def test_a_model_without_attention_shows_poses_only():
    page = web.build_page(predictor_of("TEST.FLIP", True))
    (choice,) = (block for block in page.blocks.values() if isinstance(block, gr.Dropdown))
    assert [value for value, _ in choice.choices] == [web.POSES]


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,860"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # offline
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page():
    config, weights = ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth"
    predictor = PosePredictor(config, weights, device="cpu", score_threshold=web.MIN_SCORE)
    with contextlib.closing(web.serve(predictor)) as opened:
        yield opened


@pytest.mark.slow
def test_the_page_in_a_browser_without_internet(browser, page, tmp_path):
    def wait_for(condition):
        until = time.monotonic() + 60
        while not (value := condition()):
            assert time.monotonic() < until, browser.find_element("tag name", "body").text
            time.sleep(0.1)
        return value

    def elements(selector):
        return browser.find_elements("css selector", selector)

    def rows():
        return len(elements("#persons tbody tr"))

    def image():
        selector = ".image-container img, [data-testid=image] img"
        return browser.execute_script(f"return document.querySelector('{selector}')?.src")

    def type_into(selector, typed):
        (field,) = elements(selector)
        browser.execute_script("arguments[0].select()", field)
        field.send_keys(typed, "\n")

    browser.get(page.local_url)
    wait_for(lambda: elements("#upload input[type=file]"))
    time.sleep(2)  # until the page's scripts listen to the input
    with Image.open(ROOT / "docs" / "images" / "quickstart.jpg") as opened:
        opened.crop((0, 0, 400, 300)).save(tmp_path / "scene.png")
    elements("#upload input[type=file]")[0].send_keys(str(tmp_path / "scene.png"))
    poses, everyone = wait_for(image), wait_for(rows)
    type_into("#score input[type=number]", "0.95")
    wait_for(lambda: rows() < everyone)
    type_into("#score input[type=number]", "0.20")
    wait_for(lambda: rows() == everyone and image() == poses)
    type_into("#attention input", web.ALL_PARTS)
    wait_for(lambda: image() != poses)

    elements("#download")[0].click()
    saved = tmp_path / "scene_poses_0.20.json"
    wait_for(saved.exists)
    results = json.loads(saved.read_text())
    assert len(results) == everyone and len(results[0]["keypoints"]) == 51

    elements("#upload button[aria-label=Clear]")[0].click()
    wait_for(lambda: not image() and not rows())

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert requests and all(url.startswith((page.local_url, "data:", "blob:")) for url in requests), requests
