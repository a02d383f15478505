"""How many images a second one process decodes and resizes, by decoder."""

import io
import statistics
import time

import cv2
import numpy as np
from PIL import Image

DECODERS = ("PIL", "PIL draft", "cv2")


def made_up_photograph(height: int, width: int) -> bytes:
    """A JPEG file of soft noise, which compresses about as a photograph does."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode(data: bytes, decoder: str, short_side: int) -> np.ndarray:
    """RGB array of a JPEG file, its short side as given; "PIL draft" lets the decoder leave out detail beyond that."""
    if decoder == "cv2":
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        scale = short_side / min(image.shape[:2])
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    scale = short_side / min(width, height)
    size = round(width * scale), round(height * scale)
    if decoder == "PIL draft":
        image.draft("RGB", size)
    return np.asarray(image.convert("RGB").resize(size, Image.BILINEAR))


def images_per_second(short_sides=(480, 800), height: int = 480, width: int = 640, repetitions: int = 20) -> list[dict]:
    """A row for each decoder and short side: decoding with resizing, in images a second and process."""
    data, rows = made_up_photograph(height, width), []
    for short_side in short_sides:
        for decoder in DECODERS:
            seconds = []
            for _ in range(repetitions + 1):
                start = time.perf_counter()
                decode(data, decoder, short_side)
                seconds.append(time.perf_counter() - start)
            rate = 1 / statistics.median(seconds[1:])
            rows.append({"decoder": decoder, "short_side": short_side, "images_per_s": rate})
    return rows
