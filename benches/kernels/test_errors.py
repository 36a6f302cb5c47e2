"""Tests of the random specs and of the table of their errors; only those of numbers need a package, numpy.

    python3 benches/kernels/test_errors.py
"""
import importlib.util
import math
import unittest

import draws
import error_table
import floats
from spec import SIZES

KEY = dict(template="softmax", type="fp16", spec="64×64")


def every(size="full", count=5):
    return [s for specs in draws.specs(0, draws.TEMPLATES, floats.TYPES, count, size).values() for s in specs]


class Draws(unittest.TestCase):
    def test_a_spec_depends_on_its_own_number_alone(self):
        few = draws.specs(3, ["product"], ["bf16"], 2)["product", "bf16"]
        many = draws.specs(3, draws.TEMPLATES, floats.TYPES, 4)["product", "bf16"]
        self.assertEqual([s.text for s in few], [s.text for s in many[:len(few)]])
        other = draws.specs(4, ["product"], ["bf16"], 2)["product", "bf16"]
        self.assertNotEqual([s.text for s in few], [s.text for s in other])

    def test_there_are_so_many_of_each(self):
        specs = every()
        self.assertEqual(len(specs), 150)
        for template, each in draws.TEMPLATES.items():
            for kind in floats.TYPES:
                own = [s for s in specs if (s.template, s.type.name) == (template, kind)]
                self.assertEqual(len({s.text for s in own}), 5 * each.share)

    def test_specs_keep_to_their_limits(self):
        for size, limits in SIZES.items():
            for spec in every(size, 20):
                for operand in spec.operands:
                    dims = spec.dims(operand)
                    self.assertTrue(all(isinstance(d, int) and d > 0 for d in dims), spec.text)
                    self.assertLessEqual(math.prod(dims), 8 * limits.elements, spec.text)
                    # weights are in the file, and so are their extents
                    self.assertTrue(operand.kind != "weight" or dims == [*operand.dims], spec.text)

    def test_what_is_to_be_covered_is_drawn(self):
        said = {t: " ".join(s.text for s in every(count=20) if s.template == t) for t in draws.TEMPLATES}
        for template, words in {
            "product": "linear batched broadcast aᵀ bᵀ bias relu gelu silu residual",
            "attention": "causal bool added /1 /2 exported 32 256",
            "convolution": "groups stride dilation pads 1×1 3×3 5×5 bias",
            "reduce": "sum mean max", "pointwise": "gelu silu tanh sigmoid exp",
        }.items():
            for word in words.split():
                self.assertIn(word, said[template])


class Floats(unittest.TestCase):
    def test_the_number_next_to_one(self):
        fp16, bf16 = floats.TYPES["fp16"], floats.TYPES["bf16"]
        self.assertEqual(fp16.near(2049.0), 2048.0)
        self.assertEqual(fp16.near(80**-0.5), 0.11181640625)
        self.assertEqual(bf16.near(-1.0 - 2**-7 - 2**-9), -1.0 - 2**-7)

    @unittest.skipUnless(importlib.util.find_spec("numpy"), "no numpy")
    def test_numbers_round_to_nearest_and_the_unit_is_their_error(self):
        import numpy as np

        numbers = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
        for kind in floats.TYPES.values():
            self.assertTrue(all(kind.rounded(np, numbers[:64]) == [kind.near(float(x)) for x in numbers[:64]]))
            if kind.name != "fp32":
                off = kind.rounded(np, numbers) - numbers
                rms = float((off * off).mean() / (numbers * numbers).mean()) ** 0.5
                self.assertLess(abs(rms / kind.unit - 1), 0.15)

    @unittest.skipUnless(importlib.util.find_spec("numpy"), "no numpy")
    def test_the_convolution_is_that_of_its_definition(self):
        import numpy as np

        from draw_products import convolve

        numbers = np.random.default_rng(0)
        x, w = numbers.standard_normal((2, 4, 7, 6)), numbers.standard_normal((6, 2, 3, 2))
        y = convolve(np, x, w, 2, 2, 2, (1, 0))
        self.assertEqual(y.shape, (2, 6, 3, 2))
        for image, filter, row, column in np.ndindex(y.shape):
            taps = [w[filter, c, i, j] * x[image, filter // 3 * 2 + c, row * 2 + i * 2 - 1, column * 2 + j * 2]
                    for c, i, j in np.ndindex(2, 3, 2) if 0 <= row * 2 + i * 2 - 1 < 7]
            self.assertAlmostEqual(y[image, filter, row, column], sum(taps))


def rows(elements, key=KEY, exact=False, row=1, **rms):
    """Those of one spec; `rms` by who."""
    return [dict(kind="spec", **key, exact=exact, row=row),
            *(dict(kind="error", **key, who=who, elements=elements, max=e, rms=e) for who, e in rms.items())]


def both(elements, key=KEY, *, ours, **more):
    """Those of a spec whose tiers have the same error."""
    return rows(elements, key, generic=ours, specialised=ours, **more)


class Tables(unittest.TestCase):
    def cells(self, found):
        line = next(line for line in error_table.page(found).splitlines() if line.startswith("| softmax"))
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_medians_and_the_worst_ratio(self):
        found = rows(10**6, generic=2e-4, specialised=3.12e-4, torch=3e-4)
        found += rows(10**6, dict(KEY, spec="32×32"), generic=2e-4, specialised=2e-4, torch=4e-4)
        self.assertEqual(self.cells(found), [
            "softmax", "fp16", "2", "–", "2.1e-04", "3.5e-04", "4.0e-04", "2.0e-04", "2.0e-04", "2.6e-04", "3.1e-04", "1.04", "1.05",
            "specialised: 64×64", "kept"])
        self.assertIn("2 of 2 specs kept. Geometric mean of generic kernels' ratios: 0.577.", error_table.page(found))

    def test_a_spec_that_misses_is_listed(self):
        found = rows(10**6, generic=2e-4, specialised=3.2e-4, torch=3e-4)
        self.assertEqual(self.cells(found)[-1], "MISS 1")
        self.assertIn("| softmax | fp16 | 64×64 | 1000000 | 3.0e-04 | 2.0e-04 | 3.2e-04 | 1.07 | 1.05 |", error_table.page(found))

    def test_few_results_may_differ_by_chance(self):
        self.assertEqual(self.cells(both(100, ours=3.9e-4, torch=3e-4))[-1], "kept")
        self.assertEqual(self.cells(both(10**4, ours=3.9e-4, torch=3e-4))[-1], "MISS 1")
        # PyTorch's may be near the exact result by chance, but rounding has its cost
        self.assertEqual(self.cells(both(10**6, ours=2.1e-4, torch=1e-7))[-1], "kept")

    def test_rows_of_fp32_have_one_error(self):
        fp32 = dict(KEY, type="fp32")
        self.assertEqual(self.cells(both(10**4, fp32, row=100, ours=1.3e-7, torch=1e-7))[-1], "kept")
        self.assertEqual(self.cells(both(10**4, fp32, row=1, ours=1.3e-7, torch=1e-7))[-1], "MISS 1")
        self.assertEqual(self.cells(both(10**4, row=100, ours=3.9e-4, torch=3e-4))[-1], "MISS 1")

    def test_what_is_exact_has_one_result(self):
        self.assertEqual(self.cells(both(1, exact=True, ours=0.0, torch=0.0))[-4:], ["1.00", "1.00", "specialised: 64×64", "kept"])
        self.assertEqual(self.cells(both(1, exact=True, ours=1e-9, torch=0.0))[-4:], ["∞", "1.00", "specialised: 64×64", "MISS 1"])

    def test_what_is_no_number_misses(self):
        found = rows(4, generic=math.nan, specialised=2e-4, torch=2e-4)
        self.assertEqual(self.cells(found)[-4:], ["∞", "2.55", "generic: 64×64", "MISS 1"])

    def test_what_was_not_compared_is_counted(self):
        found = rows(100, generic=2e-4, specialised=2e-4, torch=2e-4)
        found += rows(100, dict(KEY, spec="32×32"), specialised=2e-4, torch=2e-4) + rows(100, dict(KEY, spec="16×16"))
        self.assertEqual(self.cells(found)[-1], "kept, 2 not compared")

    def test_without_pytorch_there_is_no_verdict(self):
        found = rows(100, generic=2e-4, specialised=2e-4)
        self.assertEqual(self.cells(found)[5:], ["–", "–", *["2.0e-04"] * 4, *["–"] * 4])
        self.assertIn("No ratio: PyTorch was not asked.", error_table.page(found))

    def test_what_ran_and_what_did_not(self):
        found = rows(100, generic=2e-4) + [
            dict(kind="ran", template="softmax", type="fp16", tier="generic", specs=3, generic=4, specialised=0),
            dict(kind="ran", template="softmax", type="fp16", tier="specialised", specs=3, generic=1, specialised=3),
            dict(kind="fail", **KEY, who="specialised", reason="it did not run; log.txt has the messages")]
        page = error_table.page(found)
        self.assertEqual(self.cells(found)[2:4], ["1", "1.33"])
        self.assertIn("- generic: 4 kernels for 3 specs\n- specialised: 3 kernels for 3 specs, and 1 that are generic\n", page)
        self.assertIn("- failed: softmax fp16 64×64 specialised: it did not run; log.txt has the messages\n", page)


if __name__ == "__main__":
    unittest.main()
