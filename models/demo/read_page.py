"""Reads page.png with ONNX Runtime by the steps of README.md and compares with expected.txt.

    python3 models/demo/read_page.py [--models target/models]

It is the yardstick for the demo: same constants, same steps, another engine.
"""
import argparse
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THRESHOLD, MIN_SIDE, MIN_SCORE, UNCLIP, LINE_HEIGHT = 0.3, 4, 0.6, 2.4, 48


def detector_input(page):
    """[H, W, 3] RGB bytes -> [1, 3, H, W]. The model was trained on BGR, with the RGB statistics in this order."""
    bgr = page[:, :, ::-1].astype(np.float32) / 255
    return ((bgr - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None]


def components(mask):
    """Boxes (left, top, right, bottom), ends exclusive, of the 8-connected regions, with their member pixels."""
    height, width = mask.shape
    seen = np.zeros_like(mask)
    for y0, x0 in zip(*np.nonzero(mask)):
        if seen[y0, x0]:
            continue
        seen[y0, x0] = True
        todo, members = [(y0, x0)], []
        while todo:
            y, x = todo.pop()
            members.append((y, x))
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if mask[v, u] and not seen[v, u]:
                        seen[v, u] = True
                        todo.append((v, u))
        ys, xs = zip(*members)
        yield (min(xs), min(ys), max(xs) + 1, max(ys) + 1), members


def boxes(probability):
    """[H, W] -> the boxes of text lines, top to bottom, then left to right."""
    height, width = probability.shape
    found = []
    for (left, top, right, bottom), members in components(probability > THRESHOLD):
        w, h = right - left, bottom - top
        score = sum(float(probability[y, x]) for y, x in members) / len(members)
        if min(w, h) < MIN_SIDE or score < MIN_SCORE:
            continue
        grow = round(w * h * UNCLIP / (2 * (w + h)))
        left, top, right, bottom = int(left), int(top), int(right), int(bottom)
        found.append((max(left - grow, 0), max(top - grow, 0), min(right + grow, width), min(bottom + grow, height)))
    return sorted(found, key=lambda b: (b[1], b[0]))


def resize(image, height, width):
    """Bilinear, pixel centres at halves, edges clamped; [h, w, 3] floats."""
    def axis(out, size):
        at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    y0, y1, fy = axis(height, image.shape[0])
    x0, x1, fx = axis(width, image.shape[1])
    fy, fx = fy[:, None, None], fx[None, :, None]
    top = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    low = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    return top * (1 - fy) + low * fy


def recogniser_input(page, box):
    left, top, right, bottom = box
    crop = page[top:bottom, left:right, ::-1].astype(np.float32)
    width = max(8, -(-(right - left) * LINE_HEIGHT // (bottom - top)))
    return ((resize(crop, LINE_HEIGHT, width) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)


def decode(probabilities, charset):
    """CTC, greedily: the best class of each step, repeats merged, blanks (class 0) dropped; outer spaces trimmed."""
    best = probabilities.argmax(1)
    kept = [t for t in range(len(best)) if best[t] != 0 and (t == 0 or best[t] != best[t - 1])]
    text = "".join(charset[best[t] - 1] for t in kept)
    return text.strip(), min((float(probabilities[t].max()) for t in kept), default=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=HERE.parents[1] / "target/models")
    models = parser.parse_args().models

    def session(name):
        return onnxruntime.InferenceSession(str(models / name / "model.onnx"), providers=["CPUExecutionProvider"])

    detector, recogniser = session("ppocrv4_det"), session("ppocrv4_rec")
    charset = recogniser.get_modelmeta().custom_metadata_map["character"].split("\n") + [" "]
    page = np.asarray(Image.open(HERE / "page.png").convert("RGB"))
    probability = detector.run(None, {"x": detector_input(page)})[0][0, 0]
    text = []
    for box in boxes(probability):
        tensor = recogniser_input(page, box)
        line, worst = decode(recogniser.run(None, {"x": tensor})[0][0], charset)
        print(f"{str(box):24} 1x3x48x{tensor.shape[3]:<5} weakest letter {worst:.2f}  {line}")
        text.append(line)
    if text != (HERE / "expected.txt").read_text().splitlines():
        sys.exit("the text is not that of expected.txt")


if __name__ == "__main__":
    main()
