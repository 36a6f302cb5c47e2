"""The templates whose specs are drawn, and how many of each."""
import dataclasses
from collections.abc import Callable

import draw_products
import draw_rows
from floats import TYPES
from spec import SIZES, Draw, Spec


@dataclasses.dataclass(frozen=True)
class Template:
    """How specs of a template are drawn, and how many for each one of a template that has one."""

    draw: Callable
    share: int = 1


TEMPLATES = {
    "product": Template(draw_products.product, 2),
    "attention": Template(draw_products.attention, 2),
    "convolution": Template(draw_products.convolution),
    "layer_norm": Template(draw_rows.layer_norm),
    "rms_norm": Template(draw_rows.rms_norm),
    "softmax": Template(draw_rows.of_softmax),
    "pointwise": Template(draw_rows.pointwise),
    "reduce": Template(draw_rows.reduce),
}


def spec(seed, template, kind, number, size="full"):
    """The spec of this number."""
    draw = Draw(seed, template, kind, number, SIZES[size])
    return Spec(template=template, type=kind, **TEMPLATES[template].draw(draw))


def specs(seed, templates, types, count, size="full"):
    """By template and type, `count` times a template's share of each. What was drawn twice is there once."""
    found = {}
    for template in templates:
        for kind in map(TYPES.get, types):
            drawn = (spec(seed, template, kind, i, size) for i in range(count * TEMPLATES[template].share))
            found[template, kind.name] = [*{s.text: s for s in drawn}.values()]
    return found
