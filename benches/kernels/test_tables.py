"""Tests of the tables and the cases; they need neither a GPU nor a package.

    python3 benches/kernels/test_tables.py
"""
import unittest

import attention
import gemm
import memory
import report
import time_kernels

GEMM = dict(table="gemm", operator="linear")
SMALL = dict(table="small", operator="linear")
ATTENTION = dict(table="attention", operator="attention", shape="8, 16/8, 1×1000, 128")
NORM = dict(table="memory", operator="layer_norm", shape="4096×4096")


def ours(key, us, steps, **more):
    return dict(kind="ours", us=us, wall_us=us + 1, fastest_us=us, steps=steps, generic=0, compiled=0, warnings=[], **key, **more)


def recorded():
    """Rows as a measurement leaves them."""
    first, second = dict(GEMM, shape="64×64×64"), dict(GEMM, shape="128×64×64")
    rows = [
        dict(kind="machine", date="2026-11-28"),
        dict(kind="bandwidth", bytes_per_s=2.5e12),
        dict(kind="case", **first, flops=int(2e9), bytes=1000, copies=4),
        dict(kind="vendor", **first, way="linear", us=10.0, replays=9),
        ours(first, 20.0, 4),
        dict(kind="case", **second, flops=int(2e9), bytes=1000, copies=4),
        dict(kind="vendor", **second, way="linear", us=10.0, replays=9),
        ours(second, 5.0, 8),
        dict(kind="error", who="bespoke", max=1e-4, rms=2e-4, **first),
        dict(kind="error", who="linear", max=1e-4, rms=1e-4, **first),
        dict(kind="case", **ATTENTION, flops=int(1e9), bytes=1000, copies=2),
        dict(kind="vendor", **ATTENTION, way="flash", us=12.0, replays=9),
        dict(kind="vendor", **ATTENTION, way="efficient", us=8.0, replays=9),
        dict(kind="fail", who="torch", way="cudnn", reason="RuntimeError: No available kernel.", **ATTENTION),
        ours(ATTENTION, 4.0, 2),
        dict(kind="case", **NORM, flops=0, bytes=int(25e6), copies=2),
        dict(kind="vendor", **NORM, way="eager", us=20.0, replays=9),
        dict(kind="fail", who="bespoke", reason="it was not timed; log.txt has the messages", **NORM),
        dict(kind="skip", table="memory", operator="gelu", shape="128×768", reason="no time is left of 60 s"),
        dict(kind="step", step="gemm", what="linear 64×64×64", seconds=1.5, outcome="done"),
    ]
    for m, us in ((1, 11.9), (8, 9.0)):
        shape = dict(SMALL, shape=f"{m}×64×64")
        # 22.5 MB take 10 µs at nine tenths of the bandwidth
        rows += [dict(kind="case", **shape, flops=1, bytes=22_500_000, copies=2), ours(shape, us, 2),
                 dict(kind="vendor", **shape, way="linear", us=9.0, replays=9)]
    return rows


class Tables(unittest.TestCase):
    def setUp(self):
        self.page = time_kernels.page(recorded())

    def line(self, begin):
        found = [line for line in self.page.splitlines() if line.startswith(f"| {begin} |")]
        self.assertTrue(found, self.page)
        return [cell.strip() for cell in found[0].strip("|").split("|")]

    def test_speeds_ratios_and_steps(self):
        self.assertEqual(self.line("64×64×64"), ["64×64×64", "4", "10.0", "20.0", "200", "100", "2.00", "1"])
        self.assertEqual(self.line("128×64×64"), ["128×64×64", "4", "10.0", "5.00", "200", "400", "0.500", "2"])
        self.assertIn("Geometric mean of 2 ratios: 1.00; 1 at most 1, the largest 2.00.", self.page)

    def test_one_row_has_a_bound(self):
        self.assertEqual(self.line("1×64×64")[-1], "kept: 12.0")
        self.assertEqual(self.line("8×64×64")[-1], "–")
        self.assertIn("Of these, M = 1: 1.32, M = 8: 1.00.", self.page)
        slower = [dict(r, us=12.1) if r["kind"] == "ours" and r["shape"] == "1×64×64" else r for r in recorded()]
        self.assertIn("| MISSED: 12.0 |", time_kernels.page(slower))

    def test_the_fastest_backend_counts(self):
        self.assertIn("| flash µs | efficient µs | cudnn µs | bespoke µs |", self.page)
        self.assertEqual(self.line("8, 16/8, 1×1000, 128")[2:6], ["12.0", "8.00", "refused", "4.00"])
        self.assertEqual(self.line("8, 16/8, 1×1000, 128")[-2], "0.500")

    def test_errors_of_both(self):
        self.assertEqual(self.line("linear | 64×64×64 | bespoke")[-2:], ["1.0e-04", "2.0e-04"])
        self.assertIn("bespoke's rms to PyTorch's: geometric mean 2.00, the largest 2.00.", self.page)

    def test_shares_and_what_is_missing(self):
        self.assertEqual(self.line("layer_norm | 4096×4096")[4:], ["20.0", "–", "–", "50 %", "–", "–"])
        self.assertIn("- skipped: memory gelu 128×768: no time is left of 60 s\n", self.page)
        self.assertIn("- failed: memory layer_norm 4096×4096 bespoke: it was not timed", self.page)
        self.assertIn("- processes of gemm: 2 s in all\n", self.page)

    def test_nothing_is_no_table(self):
        self.assertNotIn("|", time_kernels.page([dict(kind="machine", date="2026-11-28")]))


class Cases(unittest.TestCase):
    def test_every_case_has_a_name_of_its_own(self):
        for size in ("full", "small"):
            for table in time_kernels.TABLES.values():
                cases = table.cases(size)
                self.assertEqual(len({(c.operator, c.shape) for c in cases}), len(cases), table.name)
                self.assertTrue(all(c.table == table.name and c.ways for c in cases))
                self.assertTrue(not table.errors or all(c.reference for c in cases))

    def test_work_and_bytes(self):
        product = gemm.case("gemm", 2, 3, 5)
        self.assertEqual((product.flops, product.bytes), (60, 2 * (10 + 15 + 6)))
        grouped = attention.case(8, 16, 8, 1, 1000, 128)
        self.assertEqual(grouped.flops, 4 * 8 * 16 * 1000 * 128)
        self.assertEqual(grouped.bytes, 2 * (2 * 8 * 16 * 128 + 2 * 8 * 8 * 1000 * 128))
        # a slice reads what it keeps
        self.assertEqual(memory.cut(4, 8).bytes, 2 * 2 * 4 * 8)
        self.assertEqual(memory.gather(100, 10, 8).bytes, 2 * 2 * 10 * 8 + 10 * 8)

    def test_copies_leave_the_caches_behind(self):
        large, tiny = gemm.case("gemm", 8192, 8192, 8192), gemm.case("gemm", 8, 8, 8)
        self.assertEqual((large.copies, tiny.copies), (2, 64))
        for table in time_kernels.TABLES.values():
            for case in table.cases("full"):
                # a card has to hold operands and results of both sides twice
                self.assertLess(case.copies * case.bytes, 1 << 30, case.name)

    def test_a_mean_of_nothing_is_said(self):
        self.assertIn("No ratio", report.summary(report.Results([], "gemm")))


if __name__ == "__main__":
    unittest.main()
