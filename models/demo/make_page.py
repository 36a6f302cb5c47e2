"""Draws page.png and writes expected.txt: the page that the demo reads.

    python3 models/demo/make_page.py [--fonts FOLDER]

Needs Pillow and the DejaVu fonts. Both results are committed, so this runs only when the page is to change; the
rasteriser's version moves a few pixels, which is why the drawing is not part of the tests.
"""
import argparse
import pathlib

from PIL import Image, ImageDraw, ImageFont

HERE = pathlib.Path(__file__).resolve().parent
# Both sides are multiples of 32, the detector's stride, so that the page needs no resampling.
WIDTH, HEIGHT = 768, 576
PAPER = (250, 247, 240)
# text, left edge, font size, font, ink; the lengths differ on purpose: every line has a width of its own
LINES = [
    ("Made to measure", 40, 44, "DejaVuSerif", (30, 30, 60)),
    ("One kernel fits every shape, and then it is cut to yours", 40, 22, "DejaVuSans", (20, 20, 20)),
    ("Ready to wear: 3 sizes", 60, 30, "DejaVuSans-Bold", (120, 30, 20)),
    ("No.7", 420, 40, "DejaVuSans", (10, 90, 60)),
    ("Width 48x320 became 48x517", 40, 32, "DejaVuSansMono", (40, 40, 110)),
    ("Sewn in the background while you wait", 90, 28, "DejaVuSerif", (60, 20, 80)),
    ("Fit", 520, 34, "DejaVuSans-Bold", (150, 70, 0)),
    ("Price: 1250.00", 40, 36, "DejaVuSans", (0, 70, 120)),
    ("Measured twice, cut once, kept for customer 518", 30, 23, "DejaVuSans", (60, 60, 60)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=pathlib.Path, default=pathlib.Path("/usr/share/fonts/truetype/dejavu"))
    fonts = parser.parse_args().fonts
    page = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(page)
    step = HEIGHT / len(LINES)
    for i, (text, left, size, font, ink) in enumerate(LINES):
        draw.text((left, step * (i + 0.5)), text, ink, ImageFont.truetype(str(fonts / f"{font}.ttf"), size), anchor="lm")
    page.save(HERE / "page.png", optimize=True)
    (HERE / "expected.txt").write_text("".join(f"{text}\n" for text, *_ in LINES))


if __name__ == "__main__":
    main()
