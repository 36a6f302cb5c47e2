"""Tests of what architectures.py makes of a report; they need neither NVRTC nor a package.

    python3 benches/kernels/test_architectures.py
"""
import unittest

import architectures


def kernel(spec, registers, stores=0, loads=0):
    return {"spec": spec, "registers": registers, "spill_store_bytes": stores, "spill_load_bytes": loads}


class Rows(unittest.TestCase):
    def test_a_line_names_what_spills_or_fails_once(self):
        # a kernel that two shapes have stands in a report twice
        twice = [kernel("a | x", 64, 8, 4)] * 2
        report = {"targets": [
            {"arch": "sm_80", "failed": [], "kernels": [kernel("a | x", 40), kernel("b", 90)]},
            {"arch": "sm_90a", "failed": ["c"], "kernels": [*twice, kernel("b", 7, 0, 16)]},
        ]}
        self.assertEqual(list(architectures.rows("m", report)), [
            ("| m | sm_80 | 2 | 90 | none |", 0),
            ('| m | sm_90a | 3 | 64 | 8/4: `a ¦ x`<br>0/16: `b`<br>failed: "c" |', 3),
        ])


if __name__ == "__main__":
    unittest.main()
