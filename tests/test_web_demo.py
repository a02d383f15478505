"""The web page's server: limits and mistakes over HTTP; the page itself in headless Chromium where there is one."""

import base64
import http.client
import io
import json
import shutil
import socket
import struct
import threading
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import spread, tiny_config, tiny_model

from querypose import PosePredictor
from querypose.skeleton import Skeleton
from querypose.web import PoseServer, analyze
from querypose.web.server import MAX_CONNECTIONS

ROOT = Path(__file__).parents[1]
SKELETON = Skeleton(tuple(f"joint_{i}" for i in range(17)), (), ((0, 1),), (0.05,) * 17)


@pytest.fixture
def serve():
    servers = []

    def start(analysis, **options):
        server = PoseServer(("127.0.0.1", 0), analysis, **options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shape_of(image):
    return {"shape": list(image.shape), "corner": image[0, 0].tolist()}


def image_bytes(kind="PNG", size=(30, 20), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


def post(server, body, headers=(), path="/poses"):
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request("POST", path, body, dict(headers))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def bomb(width, height):
    """A PNG of a few bytes that claims that size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_a_picture_is_analysed_upright(serve):
    server = serve(shape_of)
    assert post(server, image_bytes()) == (200, {"shape": [20, 30, 3], "corner": [200, 10, 30]})
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert post(server, image_bytes("JPEG", exif=exif))[1]["shape"] == [30, 20, 3]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"hello", 400, "no image"),
        (b"", 400, "no image"),
        (image_bytes()[:60], 400, "no image"),
        (bomb(7000, 7000), 400, "7000 x 7000 pixels"),
        (bomb(60000, 60000), 400, "pixels"),
        (b"x" * 100_001, 413, "at most 0.1"),
    ],
)
def test_what_is_refused(serve, body, status, message):
    found, answer = post(serve(shape_of, max_upload=100_000), body)
    assert found == status and message in answer["error"]


def test_a_length_that_is_none(serve):
    connection = http.client.HTTPConnection(*serve(shape_of).server_address, timeout=20)
    connection.putrequest("POST", "/poses")
    connection.putheader("Content-Length", "-5")
    connection.endheaders()
    assert connection.getresponse().status == 411


def test_other_addresses_and_failures(serve, capfd):
    def fail(image):
        raise RuntimeError("secret path")

    server = serve(fail)
    assert post(server, image_bytes(), path="/../setup.py")[0] == 404
    status, answer = post(server, image_bytes())
    assert status == 500 and "secret" not in answer["error"] and "secret" in capfd.readouterr().err


def test_analyses_at_the_same_time_are_bounded(serve):
    release, running = threading.Event(), []

    def wait(image):
        running.append(1)
        release.wait(20)
        return {}

    server = serve(wait, max_analyses=1, max_wait=0.1)
    first = threading.Thread(target=post, args=(server, image_bytes()))
    first.start()
    while not running:
        time.sleep(0.01)
    assert post(server, image_bytes())[0] == 503 and len(running) == 1
    release.set()
    first.join()
    assert post(server, image_bytes())[0] == 200


def test_a_trickling_upload_keeps_nobody_waiting_and_ends(serve):
    server = serve(shape_of, max_analyses=1, max_wait=0.1, receive_timeout=1.0)
    slow = http.client.HTTPConnection(*server.server_address, timeout=20)
    slow.putrequest("POST", "/poses")
    slow.putheader("Content-Length", "1000")
    slow.endheaders()
    slow.send(b"x")
    headers = socket.create_connection(server.server_address, timeout=20)
    headers.sendall(b"POST /poses HTTP/1.1\r\nX-")
    start = time.monotonic()
    assert post(server, image_bytes())[0] == 200, "while the others trickle"
    for _ in range(3):
        slow.send(b"x")
        headers.sendall(b"x")
        time.sleep(0.1)
    assert slow.getresponse().status == 408
    assert b"200" not in headers.recv(1000)
    assert 0.9 < time.monotonic() - start < 10


def test_connections_are_bounded(serve):
    server = serve(shape_of, receive_timeout=5.0)
    held = [socket.create_connection(server.server_address, timeout=20) for _ in range(MAX_CONNECTIONS)]
    time.sleep(0.3)
    with socket.create_connection(server.server_address, timeout=20) as one_more:
        assert one_more.recv(10) == b"", "hung up on"
    for connection in held:
        connection.close()


def test_the_demo_listens_on_this_machine_alone():
    source = (ROOT / "tools" / "web_demo.py").read_text()
    assert '"--host", default="127.0.0.1"' in source


def test_the_page_needs_nothing_from_elsewhere(serve):
    connection = http.client.HTTPConnection(*serve(shape_of).server_address, timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    page = response.read().decode()
    assert response.status == 200 and "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "http://" not in page and "https://" not in page and "src=" not in page


def test_the_maps_are_those_of_the_persons():
    model = spread(tiny_model()).eval()
    predictor = PosePredictor.from_model(model, tiny_config("light", "INPUT.MIN_SIZE_TEST", 0), SKELETON)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    outputs = []
    model.decoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    result = analyze(predictor, image)
    persons = predictor(image)
    assert len(result["persons"]) == len(persons) > 1
    assert result["attention_shape"] == list(outputs[0].attention[-1].shape[1:])
    maps = [np.frombuffer(base64.b64decode(person["attention"]), np.uint8) for person in result["persons"]]
    boxes = outputs[0].boxes[-1].flatten(0, 1)
    for person, found in zip(result["persons"], maps, strict=True):
        clipped = boxes.clamp(min=0).minimum(boxes.new_tensor([96, 64, 96, 64]))
        row = (clipped - clipped.new_tensor(person["box"])).abs().sum(1).argmin()
        wanted = outputs[0].attention[-1][row].flatten(1)
        wanted = (wanted / wanted.amax(1, keepdim=True) * 255).flatten()
        assert np.abs(found - wanted.detach().numpy()).max() <= 0.51


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
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.slow
def test_the_page_in_a_browser(serve, browser, tmp_path):
    predictor = PosePredictor(ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth", device="cpu")
    server = serve(partial(analyze, predictor))
    browser.get(server.url)

    def wait_for(condition):
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, browser.find_element("id", "status").text
            time.sleep(0.1)

    def pixels():
        return browser.execute_script("return document.getElementById('canvas').toDataURL()")

    def move(control, value):
        script = "const c = document.getElementById(arguments[0]); c.value = arguments[1]; c.oninput()"
        browser.execute_script(script, control, value)

    def count():
        return int(browser.find_element("id", "count").text.split()[0])

    picture = tmp_path / "scene.png"
    with Image.open(ROOT / "docs" / "images" / "quickstart.jpg") as opened:
        opened.crop((0, 0, 400, 300)).save(picture)
    browser.find_element("id", "file").send_keys(str(picture))
    wait_for(lambda: browser.find_element("id", "download").is_enabled())
    move("score", 0.01)
    everyone, skeletons = count(), pixels()
    move("score", 0.5)
    assert 0 <= count() < everyone and pixels() != skeletons
    move("score", 0.01)
    assert pixels() == skeletons
    browser.find_element("id", "attention").click()
    assert pixels() != skeletons

    browser.find_element("id", "download").click()
    saved = tmp_path / "scene_poses.json"
    wait_for(saved.exists)
    results = json.loads(saved.read_text())
    assert len(results) == everyone and len(results[0]["keypoints"]) == 51

    (tmp_path / "text.png").write_text("no image")
    browser.find_element("id", "file").send_keys(str(tmp_path / "text.png"))
    wait_for(lambda: "no image" in browser.find_element("id", "status").text)
    assert not [entry for entry in browser.get_log("browser") if "Content Security" in entry["message"]]
